#pragma once

#include <string>
#include <vector>

namespace mlx_conv3d {

/// The names in an environment variable, separated by commas; none where it is not set.
std::vector<std::string> names_in(const char* variable);

/// Whether MLX_CONV3D_BREAK names it: what a broken kernel looks like can then be seen on any machine. Asked
/// where kernels are checked and compiled, never where they run.
bool is_broken(const std::string& name);

}  // namespace mlx_conv3d
