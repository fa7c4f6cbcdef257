#include "core/device.h"

#include "cpu/run.h"

namespace mlx_conv3d {

const Device& cpu_device() {
  static const Device device = cpu::describe();
  return device;
}

}  // namespace mlx_conv3d
