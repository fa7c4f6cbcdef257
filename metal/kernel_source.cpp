#include <stdexcept>

#include "core/environment.h"
#include "metal/kernel_sources.h"

namespace mlx_conv3d::metal {

std::string kernel_source(const std::string& name) {
  const auto found = kernel_sources().find(name);
  if (found == kernel_sources().end()) {
    throw std::invalid_argument("name must be one of kernel_names(), got '" + name + "'.");
  }
  // A pointer without an address space, and a value where there is none.
  const char* fault = "void broken_by_MLX_CONV3D_BREAK(float* p) { return p; }\n";
  return is_broken(name) ? found->second + fault : found->second;
}

}  // namespace mlx_conv3d::metal
