#pragma once

#include <map>
#include <string>

namespace mlx_conv3d::metal {

/// The Metal sources by file name ("grouped.metal"), their local headers in them. Made by
/// tools/embed_kernels.py.
const std::map<std::string, std::string>& kernel_sources();

}  // namespace mlx_conv3d::metal
