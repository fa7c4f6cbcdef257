#pragma once

#include <cstdint>

namespace mlx_conv3d::cpu {

/// A chunk's output frames in pairs, numbered 2*pair and 2*pair + 1 less `odd`. In the products the first
/// frames of all pairs come before the second ones, so that each are one run of rows.
struct Pairs {
  int64_t frames;
  int64_t odd;  ///< 1 where the first pair has only its second frame

  int64_t count() const { return (odd + frames + 1) / 2; }
  int64_t evens() const { return count() - odd; }
  int64_t odds() const { return frames - evens(); }
  bool has_even(int64_t pair) const { return pair >= odd; }
  bool has_odd(int64_t pair) const { return pair < odds(); }
  /// Of row (pair, tile), its place among the products.
  int64_t even_row(int64_t row, int64_t tiles) const { return row - odd * tiles; }
  int64_t odd_row(int64_t row, int64_t tiles) const { return evens() * tiles + row; }
  int64_t row(int64_t frame, int64_t tile, int64_t tiles) const {
    const int64_t at = (odd + frame) / 2 * tiles + tile;
    return (odd + frame) % 2 == 0 ? even_row(at, tiles) : odd_row(at, tiles);
  }
};

}  // namespace mlx_conv3d::cpu
