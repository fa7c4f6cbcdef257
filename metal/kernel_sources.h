#pragma once

#include <map>
#include <string>

namespace mlx_conv3d::metal {

/// The Metal sources by file name ("grouped.metal"), their local headers in them. Made by
/// tools/embed_kernels.py.
const std::map<std::string, std::string>& kernel_sources();

/// One of them as the device compiles it; not valid if MLX_CONV3D_BREAK names the file. Throws
/// std::invalid_argument for other names.
std::string kernel_source(const std::string& name);

}  // namespace mlx_conv3d::metal
