#include "core/environment.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>

namespace mlx_conv3d {

std::vector<std::string> names_in(const char* variable) {
  const char* value = std::getenv(variable);
  std::vector<std::string> names;
  std::istringstream list(value == nullptr ? "" : value);
  for (std::string name; std::getline(list, name, ',');) {
    if (!name.empty()) names.push_back(name);
  }
  return names;
}

bool is_broken(const std::string& name) {
  const auto names = names_in("MLX_CONV3D_BREAK");
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace mlx_conv3d
