#pragma once

#include "core/problem.h"

namespace mlx_conv3d {

/// A tile of a Winograd algorithm: F(m, 3), or the same for pixels that are doubled in both directions, which
/// reads only the pixels that are stored (see core/winograd.h).
struct WinogradForm {
  int m = 0;  ///< outputs of a tile along an axis; 0 for none
  bool doubled = false;
  int depth_m = 1;  ///< 2: F(2, 3) along depth as well, for pairs of output frames

  bool operator==(const WinogradForm&) const = default;

  /// Along an axis: stored pixels, which are also the frequencies of the input.
  int pixels() const { return doubled ? m / 2 + 1 : m + 2; }
  /// Along an axis: products. Doubled, the two phases of the output have their own weights, but for the first
  /// frequency.
  int products() const { return doubled ? m + 1 : m + 2; }
  int all_pixels() const { return pixels() * pixels(); }
  int all_products() const { return products() * products(); }
  /// The frequency that a product of the tile reads.
  int frequency(int product) const {
    if (!doubled) return product;
    return (product / products() + 1) / 2 * pixels() + (product % products() + 1) / 2;
  }
};

/// Whether pairs of rows and columns of the logical input are copies of one stored pixel, in the padding too.
inline bool has_doubled_pixels(const ConvProblem& p) {
  for (int axis : {kHeight, kWidth}) {
    const bool mirrors_within_pixels =
        p.pad_mode[axis] == PadMode::reflect && (p.pad_lo[axis] > 1 || p.pad_hi[axis] > 1);
    if (p.upsample[axis] != 2 || mirrors_within_pixels) return false;
  }
  return true;
}

/// How the tiles of an axis lie.
struct WinogradAxis {
  int64_t tiles = 0;
  int64_t first = 0;  ///< output position of the first tile: -1 where it starts within a doubled pixel

  WinogradAxis(const ConvProblem& p, const WinogradForm& form, int axis)
      : first(form.doubled ? -(p.pad_lo[axis] & 1) : 0) {
    tiles = (p.output(axis) - first + form.m - 1) / form.m;
  }
};

/// Where pixel i of a tile is read from whose first output is `output`: a stored index, or -1 for a zero.
inline int64_t winograd_source(const ConvProblem& p, const WinogradForm& form, int axis, int64_t output,
                               int64_t i) {
  const int64_t q = output - p.pad_lo[axis];
  if (!form.doubled) return p.source_index(axis, q + i);
  // Of a pair in the padding the position next to the input: a mirrored border is one position wide.
  const int64_t pair = q + 2 * i;
  return p.source_index(axis, pair < 0 ? pair + 1 : pair);
}

}  // namespace mlx_conv3d
