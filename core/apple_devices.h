#pragma once

#include <string>
#include <vector>

#include "core/device.h"

namespace mlx_conv3d {

/// Apple's GPUs from M1 to M5, by names like "m1" and "m3-max". Sources of the figures: apple_devices.cpp.
const std::vector<Device>& apple_devices();

/// The GPU of that name. Throws std::invalid_argument, listing the names, if there is none.
const Device& apple_device(const std::string& name);

}  // namespace mlx_conv3d
