#pragma once

#include <nanobind/nanobind.h>

namespace mlx_conv3d {

/// This machine's GPU and the first-use checks of its kernels.
void bind_gpu(nanobind::module_& m);

}  // namespace mlx_conv3d
