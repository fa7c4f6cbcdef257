#include "core/environment.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace mlx_conv3d {

std::vector<std::string> names_in(const char* variable) {
  const char* value = std::getenv(variable);
  std::string_view list = value == nullptr ? "" : value;
  std::vector<std::string> names;
  while (!list.empty()) {
    const auto name = list.substr(0, list.find(','));
    if (!name.empty()) names.emplace_back(name);
    list.remove_prefix(std::min(list.size(), name.size() + 1));
  }
  return names;
}

bool is_broken(const std::string& name) {
  const auto names = names_in("MLX_CONV3D_BREAK");
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace mlx_conv3d
