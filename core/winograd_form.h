#pragma once

#include <algorithm>
#include <vector>

#include "core/problem.h"

namespace mlx_conv3d {

/// How rows and columns of the stored pixels make the input: as they are, each twice (upsampled by 2), or
/// with a zero between (dilated by 2, as for a transposed convolution); strided: as they are, two to an
/// output.
enum class Pixels : uint8_t { single, doubled, dilated, strided };
inline constexpr Pixels kPixels[] = {Pixels::single, Pixels::doubled, Pixels::dilated, Pixels::strided};
const char* name_of(Pixels pixels);
/// The m of the tiles that there are, of kernels with so many taps along an axis.
std::vector<int> winograd_tile_sizes(Pixels pixels, int taps);

/// A tile of a Winograd algorithm: F(m, taps), one that reads only the stored pixels of an input that has
/// twice as many rows and columns, or one of spatial stride 2 (see core/winograd.h).
struct WinogradForm {
  int m = 0;  ///< outputs of a tile along an axis; 0 for none
  Pixels pixels = Pixels::single;
  int depth_m = 1;    ///< 2: F(2, 3) along depth as well, for pairs of output frames
  int parts = 0;      ///< bf16 parts of each operand, multiplied by a matrix unit; 0: fp32
  bool rows = false;  ///< along the width alone: taps along the height are summed as they are; only of groups
  int taps = 3;       ///< along an axis of single pixels: 3 or 5

  bool operator==(const WinogradForm&) const = default;

  /// Along an axis: stored pixels, which are also the frequencies of the input.
  int side() const {
    return pixels == Pixels::single ? m + taps - 1 : pixels == Pixels::strided ? 2 * m + 1 : m / 2 + 1;
  }
  /// Along an axis. The two phases of the output have their own weights, but for the first frequency of
  /// doubled pixels.
  int products() const {
    return pixels == Pixels::doubled ? m + 1 : pixels == Pixels::dilated ? m + 2 : side();
  }
  /// Along an axis: the products from the last weight on share it.
  int weights() const { return pixels == Pixels::strided ? m + 2 : products(); }
  /// Whether fp32 results keep their accuracy. Rounding to 16 bits hides the error of eight pixels entirely.
  bool exact() const { return pixels != Pixels::single || side() <= 6; }
  /// Whether F(2, 3) may run along depth: five taps in space would be 75 at a time.
  bool pairs_frames() const { return taps == 3; }
  int all_pixels() const { return side() * side(); }
  int all_products() const { return products() * (rows ? 3 : products()); }
  int all_weights() const { return weights() * (rows ? 3 : weights()); }
  /// The frequency that a product of the tile reads.
  int frequency(int product) const {
    return frequency_of_axis(product / products()) * side() + frequency_of_axis(product % products());
  }
  /// The transformed weight that a product of the tile reads.
  int weight(int product) const {
    const int last = weights() - 1;
    return std::min(product / products(), last) * weights() + std::min(product % products(), last);
  }

 private:
  int frequency_of_axis(int product) const {
    switch (pixels) {
      case Pixels::single:
      case Pixels::strided:
        return product;
      case Pixels::doubled:
        return (product + 1) / 2;
      case Pixels::dilated:
        return product / 2;
    }
    return product;
  }
};

/// What a Winograd algorithm makes of the problem's rows and columns.
inline Pixels pixels_of(const ConvProblem& p) {
  if (p.input_dilation[kHeight] == 2 && p.input_dilation[kWidth] == 2) return Pixels::dilated;
  if (p.stride[kHeight] == 2 && p.stride[kWidth] == 2) return Pixels::strided;
  for (int axis : {kHeight, kWidth}) {
    // A wider mirrored border is not made of whole pixels.
    const bool mirrored = p.pad_mode[axis] == PadMode::reflect && (p.pad_lo[axis] > 1 || p.pad_hi[axis] > 1);
    if (p.upsample[axis] != 2 || p.dilation[axis] != 1 || p.kernel[axis] != 3 || mirrored) {
      return Pixels::single;
    }
  }
  return Pixels::doubled;
}

/// The taps of a form for kernels of so many along an axis; dilated pixels have four for three as well.
inline int winograd_taps(int64_t side) { return side == 5 ? 5 : 3; }

/// How the tiles of an axis lie. With taps `step` apart, so are a tile's outputs: `step` tiles lie side by
/// side, each a position behind the one before it.
struct WinogradAxis {
  int64_t tiles = 0;
  int64_t first = 0;  ///< output position of the first tile: -1 where a pair of outputs starts before 0
  int64_t step = 1;   ///< from an output of a tile to the next
  int64_t span = 1;   ///< of all outputs of `step` tiles side by side

  /// Pairs of outputs that read the same pixels start at even positions of doubled pixels, and at odd ones
  /// of dilated pixels.
  WinogradAxis(const ConvProblem& p, const WinogradForm& form, int axis) {
    const int64_t odd = p.pad_lo[axis] & 1;
    if (form.pixels == Pixels::doubled) first = -odd;
    if (form.pixels == Pixels::dilated) first = odd - 1;
    step = p.dilation[axis];
    span = step * form.m;
    const int64_t outputs = p.output(axis) - first;
    tiles = outputs / span * step + std::min(step, outputs % span);
  }

  /// The output position that a tile starts at.
  int64_t start(int64_t tile) const { return first + tile / step * span + tile % step; }
};

/// Where pixel i of a tile is read from whose first output is `output`: a stored index, or -1 for a zero.
inline int64_t winograd_source(const ConvProblem& p, const WinogradForm& form, int axis, int64_t output,
                               int64_t i) {
  const int64_t q = output * p.stride[axis] - p.pad_lo[axis];
  if (form.pixels == Pixels::single) return p.source_index(axis, q + i * p.dilation[axis]);
  if (form.pixels == Pixels::strided) return p.source_index(axis, q + i);
  if (form.pixels == Pixels::dilated) return p.source_index(axis, q + 1 + 2 * i);
  // Of a pair in the padding the position next to the input: a mirrored border is one position wide.
  const int64_t pair = q + 2 * i;
  return p.source_index(axis, pair < 0 ? pair + 1 : pair);
}

}  // namespace mlx_conv3d
