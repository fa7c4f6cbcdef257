#pragma once

#include "core/problem.h"

namespace mlx_conv3d {

/// How rows and columns of the stored pixels make the input: as they are, each twice (upsampled by 2), or
/// with a zero between (dilated by 2, as for a transposed convolution).
enum class Pixels : uint8_t { single, doubled, dilated };
const char* name_of(Pixels pixels);

/// A tile of a Winograd algorithm: F(m, 3), or one that reads only the stored pixels of an input that has
/// twice as many rows and columns (see core/winograd.h).
struct WinogradForm {
  int m = 0;  ///< outputs of a tile along an axis; 0 for none
  Pixels pixels = Pixels::single;
  int depth_m = 1;    ///< 2: F(2, 3) along depth as well, for pairs of output frames
  int parts = 0;      ///< bf16 parts of each operand, multiplied by a matrix unit; 0: fp32
  bool rows = false;  ///< along the width alone: taps along the height are summed as they are; only of groups

  bool operator==(const WinogradForm&) const = default;

  /// Along an axis: stored pixels, which are also the frequencies of the input.
  int side() const { return pixels == Pixels::single ? m + 2 : m / 2 + 1; }
  /// Along an axis. The two phases of the output have their own weights, but for the first frequency of
  /// doubled pixels.
  int products() const { return pixels == Pixels::doubled ? m + 1 : m + 2; }
  int all_pixels() const { return side() * side(); }
  int all_products() const { return products() * (rows ? 3 : products()); }
  /// The frequency that a product of the tile reads.
  int frequency(int product) const {
    return frequency_of_axis(product / products()) * side() + frequency_of_axis(product % products());
  }

 private:
  int frequency_of_axis(int product) const {
    return pixels == Pixels::single ? product : pixels == Pixels::doubled ? (product + 1) / 2 : product / 2;
  }
};

/// What a Winograd algorithm makes of the problem's rows and columns.
inline Pixels pixels_of(const ConvProblem& p) {
  if (p.input_dilation[kHeight] == 2 && p.input_dilation[kWidth] == 2) return Pixels::dilated;
  for (int axis : {kHeight, kWidth}) {
    // A wider mirrored border is not made of whole pixels.
    const bool mirrored = p.pad_mode[axis] == PadMode::reflect && (p.pad_lo[axis] > 1 || p.pad_hi[axis] > 1);
    if (p.upsample[axis] != 2 || mirrored) return Pixels::single;
  }
  return Pixels::doubled;
}

/// How the tiles of an axis lie.
struct WinogradAxis {
  int64_t tiles = 0;
  int64_t first = 0;  ///< output position of the first tile: -1 where a pair of outputs starts before 0

  /// Pairs of outputs that read the same pixels start at even positions of doubled pixels, and at odd ones
  /// of dilated pixels.
  WinogradAxis(const ConvProblem& p, const WinogradForm& form, int axis) {
    const int64_t odd = p.pad_lo[axis] & 1;
    first = form.pixels == Pixels::single ? 0 : form.pixels == Pixels::doubled ? -odd : odd - 1;
    tiles = (p.output(axis) - first + form.m - 1) / form.m;
  }
};

/// Where pixel i of a tile is read from whose first output is `output`: a stored index, or -1 for a zero.
inline int64_t winograd_source(const ConvProblem& p, const WinogradForm& form, int axis, int64_t output,
                               int64_t i) {
  const int64_t q = output - p.pad_lo[axis];
  if (form.pixels == Pixels::single) return p.source_index(axis, q + i);
  if (form.pixels == Pixels::dilated) return p.source_index(axis, q + 1 + 2 * i);
  // Of a pair in the padding the position next to the input: a mirrored border is one position wide.
  const int64_t pair = q + 2 * i;
  return p.source_index(axis, pair < 0 ? pair + 1 : pair);
}

}  // namespace mlx_conv3d
