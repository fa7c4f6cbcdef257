#pragma once

#include "core/winograd_form.h"
#include "cpu/geometry.h"

namespace mlx_conv3d::cpu {

constexpr int64_t kMostTilePixels = 64;

/// Of the tile whose first output is (row, col), a pointer to every pixel's item `offset` bytes behind its
/// first, row by row; `zeros` where there is none.
inline void winograd_pixels(const ConvProblem& p, const WinogradForm& form, const Frame& frame, int64_t row,
                            int64_t col, int64_t offset, const void* zeros, const void** pixels) {
  const int64_t side = form.side();
  int64_t columns[8];
  for (int64_t j = 0; j < side; ++j) columns[j] = winograd_source(p, form, kWidth, col, j);
  for (int64_t i = 0; i < side; ++i) {
    const int64_t sh = winograd_source(p, form, kHeight, row, i);
    const char* from = frame.data + sh * frame.row_stride + offset;
    for (int64_t j = 0; j < side; ++j) {
      *pixels++ = sh < 0 || columns[j] < 0 ? zeros : from + columns[j] * frame.col_stride;
    }
  }
}

}  // namespace mlx_conv3d::cpu
