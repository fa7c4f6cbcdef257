#pragma once

#include <cstdint>
#include <vector>

#include "cpu/geometry.h"

namespace mlx_conv3d::cpu {

/// Positions of an output row that meet the same column taps. Position j meets its tap t at column
/// j*stride + t*dilation. Of a dilated input a row has several such phases, so that no column tap meets the
/// zeros between the pixels.
struct RowPhase {
  AxisPhase axis;
  int64_t stride, dilation;
  int64_t first_weight;  ///< products of the phases before it, of one output channel
  int64_t start, step;   ///< of the padded, dilated input axis: that of column 0, between columns
  /// Index into the stored width, or -1, of a column.
  int64_t column(const ConvProblem& problem, int64_t q) const {
    return problem.source_index(kWidth, start + q * step);
  }
  int64_t columns(int64_t positions) const {
    return (positions - 1) * stride + (axis.taps.empty() ? 0 : axis.tap_count() - 1) * dilation + 1;
  }
};

std::vector<RowPhase> row_phases(const ConvProblem& problem, const AxisPhase& depth, const AxisPhase& height);

/// Weight element offsets of a phase's products of one output channel.
std::vector<int64_t> weight_offsets(const ConvProblem& problem, const AxisPhase& depth,
                                    const AxisPhase& height, const RowPhase& phase, const WeightView& w);

/// Where a contiguous (O, KD, KH, KW, C/groups) array of this type has its elements.
WeightView contiguous_weights(const ConvProblem& problem, Dtype type);

}  // namespace mlx_conv3d::cpu
