#include "cpu/row_phase.h"

#include <numeric>
#include <utility>

namespace mlx_conv3d::cpu {

std::vector<RowPhase> row_phases(const ConvProblem& p, const AxisPhase& depth, const AxisPhase& height) {
  const int64_t dilated = p.input_dilation[kWidth], spread = p.dilation[kWidth];
  const int64_t tap_step = dilated / std::gcd(spread, dilated);
  std::vector<RowPhase> phases;
  int64_t weights = 0;
  for (AxisPhase& axis : axis_phases(p, kWidth, true, false)) {
    RowPhase phase;
    phase.stride = axis.step * p.stride[kWidth] / dilated;
    phase.dilation = tap_step * spread / dilated;
    phase.first_weight = weights;
    weights += depth.tap_count() * height.tap_count() * axis.tap_count() * p.group_in();
    phase.axis = std::move(axis);
    const int64_t listed = phase.axis.taps.empty() ? 0 : phase.axis.taps.front();
    const int64_t tap = p.flip ? p.kernel[kWidth] - 1 - listed : listed;
    phase.start = phase.axis.first * p.stride[kWidth] + tap * spread - p.pad_lo[kWidth];
    phase.step = dilated;
    phases.push_back(std::move(phase));
  }
  return phases;
}

std::vector<int64_t> weight_offsets(const ConvProblem& p, const AxisPhase& depth, const AxisPhase& height,
                                    const RowPhase& phase, const WeightView& w) {
  std::vector<int64_t> offsets;
  for (int64_t kd : depth.taps) {
    for (int64_t kh : height.taps) {
      for (int64_t kw : phase.axis.taps) {
        for (int64_t c = 0; c < p.group_in(); ++c) {
          offsets.push_back(kd * w.stride[1] + kh * w.stride[2] + kw * w.stride[3] + c * w.stride[4]);
        }
      }
    }
  }
  return offsets;
}

WeightView contiguous_weights(const ConvProblem& p, Dtype type) {
  WeightView w{nullptr, type, {}};
  w.stride[4] = 1;
  w.stride[3] = p.group_in();
  w.stride[2] = w.stride[3] * p.kernel[2];
  w.stride[1] = w.stride[2] * p.kernel[1];
  w.stride[0] = w.stride[1] * p.kernel[0];
  return w;
}

}  // namespace mlx_conv3d::cpu
