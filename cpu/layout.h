#pragma once

#include <cstdint>

namespace mlx_conv3d::cpu {

/// A copy of a strided tensor of up to five axes to a contiguous one. Strides in elements.
struct StridedCopy {
  const char* from = nullptr;
  char* to = nullptr;
  int64_t item = 4;
  int64_t shape[5] = {1, 1, 1, 1, 1};
  int64_t stride[5] = {0, 0, 0, 0, 0};
};

void copy_contiguous(const StridedCopy& task);

}  // namespace mlx_conv3d::cpu
