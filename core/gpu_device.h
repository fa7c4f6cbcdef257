#pragma once

#include <string>

#include "core/device.h"

namespace mlx_conv3d {

/// The row of the table for a GPU as Metal names it ("Apple M3 Max") and its architecture ("applegpu_g15s").
/// A chip that the table lacks gets the figures of the nearest one, and a note that says so. Pure.
Device describe_gpu(const std::string& name, const std::string& architecture);

/// This machine's GPU, read once; null where MLX's GPU streams are not Metal's.
const Device* live_gpu();

}  // namespace mlx_conv3d
