#include "cpu/geometry.h"

#include <algorithm>
#include <numeric>

namespace mlx_conv3d::cpu {

int64_t pixel_stride(const TensorView& view, const int64_t (&sizes)[4], int first, int64_t alone) {
  int64_t pixel = alone, next = -1;
  for (int axis = 3; axis >= first; --axis) {
    if (sizes[axis] == 1) continue;
    if (next < 0) pixel = view.stride[axis];
    if (next >= 0 && view.stride[axis] != next) return 0;
    next = view.stride[axis] * sizes[axis];
  }
  return pixel;
}

Operands with_axes(Operands operands, const AxisOrder& order) {
  for (TensorView* view : {&operands.x, &operands.lead}) reorder_axes(view->stride + 1, order);
  operands.w = with_axes(operands.w, order);
  return operands;
}

WeightView weights_from(const WeightView& w, int64_t channel) {
  WeightView rest = w;
  const int64_t at = w.group > 0 ? channel / w.group * w.group_stride + channel % w.group * w.stride[0]
                                 : channel * w.stride[0];
  rest.data = static_cast<const char*>(w.data) + at * item_size(w.type);
  return rest;
}

std::vector<AxisPhase> axis_phases(const ConvProblem& p, int axis, bool split_phases, bool with_sources) {
  const int64_t out = p.output(axis), dilation = p.input_dilation[axis];
  const int64_t period = split_phases ? dilation / std::gcd(p.stride[axis], dilation) : 1;
  std::vector<AxisPhase> phases;
  for (int64_t first = 0; first < std::min(period, out); ++first) {
    AxisPhase phase;
    phase.first = first;
    phase.step = period;
    phase.stride = period * p.stride[axis];
    phase.count = (out - first + period - 1) / period;
    for (int64_t k = 0; k < p.kernel[axis]; ++k) {
      const int64_t start = first * p.stride[axis] + k * p.dilation[axis] - p.pad_lo[axis];
      // All positions of the phase meet the same residue, so the first one tells for all.
      if (split_phases && ((start % dilation) + dilation) % dilation != 0) continue;
      phase.taps.push_back(p.flip ? p.kernel[axis] - 1 - k : k);
      phase.starts.push_back(start);
      for (int64_t j = 0; with_sources && j < phase.count; ++j) {
        phase.sources.push_back(p.source_index(axis, start + j * phase.stride));
      }
    }
    phases.push_back(std::move(phase));
  }
  return phases;
}

}  // namespace mlx_conv3d::cpu
