#pragma once

#include <algorithm>
#include <vector>

#include "core/integers.h"
#include "core/winograd_form.h"
#include "cpu/geometry.h"

namespace mlx_conv3d::cpu {

/// How the tiles of all images lie: column by column, row by row, image by image.
class WinogradTiles {
 public:
  static constexpr int64_t kMostSide = 9, kMostPixels = kMostSide * kMostSide;

  /// Of a problem whose axes are those of y in this order.
  WinogradTiles(const ConvProblem& p, const WinogradForm& form, const AxisOrder& order)
      : p_(p),
        form_(form),
        rows_(p, form, kHeight),
        cols_(p, form, kWidth),
        row_sources_(sources(rows_, kHeight, form.rows())),
        col_sources_(form.row_taps > 0 ? std::vector<int64_t>{} : sources(cols_, kWidth, form.side())) {
    Size3 sizes;
    for (size_t axis = 0; axis < 3; ++axis) sizes[static_cast<size_t>(order[axis])] = p.output()[axis];
    const Size3 strides{sizes[kHeight] * sizes[kWidth], sizes[kWidth], 1};
    for (size_t axis = 0; axis < 3; ++axis) {
      y_stride_[axis] = strides[static_cast<size_t>(order[axis])] * p.out_channels;
    }
    image_ = sizes[kDepth] * strides[kDepth] * p.out_channels;
  }

  int64_t count() const { return p_.batch * rows_.tiles * cols_.tiles; }

  /// A tile's image, which it is along the rows and columns, and the output position that it starts at.
  struct Place {
    int64_t n, down, across, row, col;
  };
  Place at(int64_t tile) const {
    const int64_t rows = rows_.tiles, cols = cols_.tiles;
    const int64_t down = tile / cols % rows, across = tile % cols;
    return {tile / (rows * cols), down, across, rows_.start(down), cols_.start(across)};
  }

  /// Of a tile in `frame`, pointers to its pixels, row by row; those of padding are `zeros`.
  void find_pixels(const Place& tile, const Frame& frame, const char* zeros, const void** pixels) const {
    const int64_t side = form_.side(), height = form_.rows();
    const int64_t* rows = row_sources_.data() + tile.down * height;
    int64_t columns[kMostSide], own[kMostSide];
    const int64_t* cols = own;
    if (form_.row_taps > 0) {
      find_line(tile.col, own);
    } else {
      cols = col_sources_.data() + tile.across * side;
    }
    for (int64_t j = 0; j < side; ++j) columns[j] = cols[j] * frame.col_stride;
    for (int64_t i = 0; i < height; ++i, pixels += side) {
      const char* row = frame.data + rows[i] * frame.row_stride;
      for (int64_t j = 0; j < side; ++j) pixels[j] = rows[i] < 0 || cols[j] < 0 ? zeros : row + columns[j];
    }
  }

  /// Bytes from a pixel to the next tile's.
  int64_t step(const Frame& frame) const {
    if (stacked()) return frame.row_stride;
    switch (form_.pixels) {
      case Pixels::single:
        return frame.col_stride * (cols_.step == 1 ? form_.m : 1);
      case Pixels::strided:
        return frame.col_stride * 2 * form_.m;
      case Pixels::doubled:
      case Pixels::dilated:
        return frame.col_stride * form_.m / 2;
    }
    return 0;
  }

  /// Where a tile's outputs in a frame are, from `channel` on, and which of them exist.
  void find_outputs(int64_t frame, const Place& at, int64_t channel, WinogradOutputTile& tile) const {
    const int64_t height = p_.output(kHeight), width = p_.output(kWidth);
    tile.first = at.n * image_ + frame * y_stride_[kDepth] + at.row * y_stride_[kHeight] +
                 at.col * y_stride_[kWidth] + channel;
    tile.row_stride = rows_.step * y_stride_[kHeight];
    tile.pixel_stride = cols_.step * y_stride_[kWidth];
    tile.following = stacked() ? tile.row_stride : form_.m * tile.pixel_stride;
    tile.row_begin = static_cast<int>(std::max<int64_t>(0, -at.row));
    tile.row_end =
        static_cast<int>(std::min<int64_t>(form_.height(), divide_up(height - at.row, rows_.step)));
    tile.col_begin = static_cast<int>(std::max<int64_t>(0, -at.col));
    tile.col_end = static_cast<int>(std::min<int64_t>(form_.m, divide_up(width - at.col, cols_.step)));
  }

 private:
  /// Whether the next tile lies in the next row.
  bool stacked() const { return form_.row_taps > 0 && cols_.tiles == 1; }

  /// The columns of the tile whose first output is `col`. A line may be as long as an hour of samples, so
  /// that a table of all would take longer than the tiles.
  void find_line(int64_t col, int64_t* columns) const {
    const int64_t step = p_.dilation[kWidth], first = col - p_.pad_lo[kWidth];
    const bool inside =
        p_.upsample[kWidth] == 1 && first >= 0 && first + (form_.side() - 1) * step < p_.stored(kWidth);
    for (int64_t i = 0; i < form_.side(); ++i) {
      columns[i] = inside ? first + i * step : winograd_source(p_, form_, kWidth, col, i);
    }
  }

  /// [tile][pixel] along an axis, -1 for a zero.
  std::vector<int64_t> sources(const WinogradAxis& along, int axis, int64_t pixels) const {
    std::vector<int64_t> found;
    found.reserve(static_cast<size_t>(along.tiles * pixels));
    for (int64_t tile = 0; tile < along.tiles; ++tile) {
      const int64_t start = along.start(tile);
      for (int64_t i = 0; i < pixels; ++i) found.push_back(winograd_source(p_, form_, axis, start, i));
    }
    return found;
  }

  const ConvProblem& p_;
  const WinogradForm form_;
  const WinogradAxis rows_, cols_;
  const std::vector<int64_t> row_sources_, col_sources_;
  Size3 y_stride_;  ///< elements, by p's axes
  int64_t image_;
};

}  // namespace mlx_conv3d::cpu
