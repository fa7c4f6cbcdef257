#pragma once

#include <algorithm>
#include <array>
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
  int depth_m = 1;   ///< 2: F(2, 3) along depth as well, for pairs of output frames
  int parts = 0;     ///< bf16 parts of each operand, multiplied by a matrix unit; 0: fp32
  int row_taps = 0;  ///< 0: tiles are square; else they lie along the width alone, and so many taps along the
                     ///< height are summed as they are, more than one only of groups
  int taps = 3;      ///< along an axis of single pixels: 3 or 5, and 7 of those along the width alone

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
  /// Whether fp32 results keep their accuracy. Rounding to 16 bits hides the error of eight pixels in both
  /// directions entirely; in one it is small.
  bool exact() const { return pixels != Pixels::single || side() <= 6 || row_taps > 0; }
  /// Whether F(2, 3) may run along depth: five taps in space would be 75 at a time, and a line has depth taps
  /// seldom.
  bool pairs_frames() const { return taps == 3 && row_taps == 0; }
  /// Outputs and pixels of a tile along the height.
  int height() const { return row_taps > 0 ? 1 : m; }
  int rows() const { return rows_of(side()); }
  /// In which tiles and weights are transformed.
  int directions() const { return row_taps > 0 ? 1 : 2; }
  int all_pixels() const { return rows() * side(); }
  int all_products() const { return products() * rows_of(products()); }
  int all_weights() const { return weights() * rows_of(weights()); }
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
  /// Rows of what a square tile has as many of as columns.
  int rows_of(int columns) const { return row_taps > 0 ? row_taps : columns; }
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
inline int winograd_taps(int64_t side) { return side == 5 || side == 7 ? static_cast<int>(side) : 3; }

/// The one axis along which a kernel has taps that a Winograd algorithm can take, beside taps along depth;
/// -1 where it has them along rows and columns, or as many as no form has.
inline int winograd_line_axis(const Size3& kernel) {
  const auto fits = [](int64_t taps) { return taps == 3 || taps == 5 || taps == 7; };
  if (kernel[kHeight] == 1 && fits(kernel[kWidth])) return kWidth;
  if (kernel[kWidth] == 1 && fits(kernel[kHeight])) return kHeight;
  return kernel[kHeight] == 1 && kernel[kWidth] == 1 && fits(kernel[kDepth]) ? kDepth : -1;
}

/// The axes in the order that a form along the width wants of them: that of the taps last.
using AxisOrder = std::array<int, 3>;
inline AxisOrder winograd_axis_order(const Size3& kernel) {
  switch (winograd_line_axis(kernel)) {
    case kDepth:
      return {kHeight, kWidth, kDepth};
    case kHeight:
      return {kDepth, kWidth, kHeight};
    default:
      return {kDepth, kHeight, kWidth};
  }
}
/// Metal's tiles of one axis lie along depth: the order that a single row of positions takes for them.
inline constexpr AxisOrder kRowAlongDepth{kWidth, kHeight, kDepth};
inline bool is_single_row(const ConvProblem& p) {
  return p.lead == 0 && p.input[kDepth] == 1 && p.input[kHeight] == 1 && p.output(kDepth) == 1 &&
         p.output(kHeight) == 1;
}

/// Puts what there is of each axis into another order: that of axis a is what order[a] had.
template <class T>
void reorder_axes(T* of_axes, const AxisOrder& order) {
  const T from[] = {of_axes[kDepth], of_axes[kHeight], of_axes[kWidth]};
  for (int axis : {kDepth, kHeight, kWidth}) of_axes[axis] = from[order[static_cast<size_t>(axis)]];
}

/// The problem whose axes are those of `p` in another order. Lead frames stay with depth.
inline ConvProblem with_axes(ConvProblem p, const AxisOrder& order) {
  for (Size3* sizes :
       {&p.input, &p.kernel, &p.stride, &p.pad_lo, &p.pad_hi, &p.dilation, &p.input_dilation, &p.upsample}) {
    reorder_axes(sizes->data(), order);
  }
  reorder_axes(p.pad_mode.data(), order);
  return p;
}

/// A problem as its forms take it, and their row_taps.
struct WinogradProblem {
  ConvProblem problem;
  int row_taps;
};
inline WinogradProblem winograd_problem(const ConvProblem& p) {
  return {with_axes(p, winograd_axis_order(p.kernel)), winograd_line_axis(p.kernel) < 0 ? 0 : 1};
}

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
    if (axis == kHeight && form.row_taps > 0) {
      tiles = p.output(axis);
      return;
    }
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
