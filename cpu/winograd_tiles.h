#pragma once

#include "core/winograd_form.h"
#include "cpu/geometry.h"

namespace mlx_conv3d::cpu {

/// How the tiles of all images lie: column by column, row by row, image by image.
class WinogradTiles {
 public:
  static constexpr int64_t kMostSide = 8, kMostPixels = kMostSide * kMostSide;

  WinogradTiles(const ConvProblem& p, const WinogradForm& form)
      : p_(p), form_(form), rows_(p, form, kHeight), cols_(p, form, kWidth) {}

  int64_t count() const { return p_.batch * rows_.tiles * cols_.tiles; }

  /// A tile's image and the output position that it starts at.
  struct Place {
    int64_t n, row, col;
  };
  Place at(int64_t tile) const {
    const int64_t rows = rows_.tiles, cols = cols_.tiles;
    return {tile / (rows * cols), rows_.first + tile / cols % rows * form_.m,
            cols_.first + tile % cols * form_.m};
  }

  /// Of a tile in `frame`, side*side pointers to its pixels; those of padding are `zeros`.
  void find_pixels(const Place& tile, const Frame& frame, const char* zeros, const void** pixels) const {
    const int64_t side = form_.side();
    const char* columns[kMostSide];
    for (int64_t j = 0; j < side; ++j) {
      const int64_t col = winograd_source(p_, form_, kWidth, tile.col, j);
      columns[j] = col < 0 ? nullptr : frame.data + col * frame.col_stride;
    }
    for (int64_t i = 0; i < side; ++i) {
      const int64_t row = winograd_source(p_, form_, kHeight, tile.row, i);
      for (int64_t j = 0; j < side; ++j) {
        const bool zero = row < 0 || columns[j] == nullptr;
        pixels[i * side + j] = zero ? zeros : columns[j] + row * frame.row_stride;
      }
    }
  }

 private:
  const ConvProblem& p_;
  const WinogradForm form_;
  const WinogradAxis rows_, cols_;
};

}  // namespace mlx_conv3d::cpu
