#pragma once

// A convolution as passes of kernels/gather_gemm.metal, each the product of output positions by output
// channels.

#include <array>
#include <vector>

#include "core/plan.h"

namespace mlx_conv3d::metal {

/// Output positions of one axis that meet the same taps, as a convolution without input dilation: position
/// first + j * step meets input stride * j + dilation * i - pad at tap first_tap + i * tap_step.
struct AxisPass {
  int64_t first = 0, step = 1, count = 0;
  int64_t taps = 0, first_tap = 0, tap_step = 1;
  int64_t stride = 1, dilation = 1, pad = 0;
};

struct GatherPass {
  std::array<AxisPass, 3> axes;
  bool adds = false;     ///< to what passes before it summed
  bool ends = true;      ///< with the epilogue; otherwise sums are kept in fp32
  int64_t rows = 0;      ///< output positions
  int64_t products = 0;  ///< taps times channels per group
};

/// How many passes an algorithm takes: one per depth tap (taps) or per phase of the dilated input
/// (transposed).
int64_t count_gather_passes(const ConvProblem& problem, Algorithm algorithm);
std::vector<GatherPass> gather_passes(const ConvProblem& problem, Algorithm algorithm);

/// A block of output positions by output channels that the kernel exists for; `blocked` ones sum in blocks,
/// which fp32 results need, and of some widths there is no other.
struct GatherBlock {
  int64_t rows, cols;
  bool blocked;
};
std::vector<GatherBlock> gather_blocks(const ConvProblem& problem);

/// Bytes of the fp32 sums that `taps` keeps beside a 16-bit result; else 0.
int64_t gather_scratch(const ConvProblem& problem, Algorithm algorithm);

}  // namespace mlx_conv3d::metal
