#pragma once

#include <cstdint>
#include <vector>

#include "core/problem.h"
#include "cpu/simd/kernels.h"

namespace mlx_conv3d::cpu {

/// An N,D,H,W,C tensor read through strides (in elements); the channel stride is 1.
struct TensorView {
  const char* data = nullptr;
  int64_t stride[4] = {0, 0, 0, 0};  ///< n, d, h, w
};

/// Elements from one pixel to the next, where all pixels of the axes from `first` on are as far apart; else
/// 0. `sizes` are those of n, d, h, w; `alone` is for a single pixel.
int64_t pixel_stride(const TensorView& view, const int64_t (&sizes)[4], int first, int64_t alone);

/// The same from output channel `channel` on; beyond the channel's group only where groups follow each other.
WeightView weights_from(const WeightView& w, int64_t channel);

/// What a run reads and writes. The output and the residual are contiguous.
struct Operands {
  TensorView x;
  TensorView lead;
  WeightView w;
  const float* packed_w = nullptr;  ///< weights already in the plan's own layout, or null
  Epilogue epilogue;
  void* y = nullptr;
};

/// What with_axes(problem, order) reads. y, whose places that problem does not know, and the residual stay.
Operands with_axes(Operands operands, const AxisOrder& order);

/// One frame of the logical input (lead frames, then x).
struct Frame {
  const char* data;
  int64_t row_stride, col_stride;  ///< bytes
};

class Input {
 public:
  Input(const ConvProblem& problem, const Operands& operands)
      : Input(problem, operands, item_size(problem.x_type)) {}
  /// Views whose strides count items of another size.
  Input(const ConvProblem& problem, const Operands& operands, int64_t item)
      : x_(operands.x), lead_(operands.lead), lead_frames_(problem.lead), item_(item) {}

  Frame frame(int64_t n, int64_t d) const {
    const bool in_lead = d < lead_frames_;
    const TensorView& t = in_lead ? lead_ : x_;
    const int64_t at = n * t.stride[0] + (in_lead ? d : d - lead_frames_) * t.stride[1];
    return {t.data + at * item_, t.stride[2] * item_, t.stride[3] * item_};
  }
  int64_t item() const { return item_; }

 private:
  TensorView x_, lead_;
  int64_t lead_frames_, item_;
};

/// Output positions of one axis that share the same taps: first, first + step, ... (count of them). With
/// input dilation s there are up to s such phases; without, one.
struct AxisPhase {
  int64_t first = 0, step = 1, count = 0;
  std::vector<int64_t> taps;  ///< weight index along the axis (flip applied) of each tap that meets input
  std::vector<int64_t>
      sources;                  ///< [tap][position]: index into the logical input, or -1 for a zero; if asked
  int64_t stride = 1;           ///< from position to position on the padded (and dilated) axis
  std::vector<int64_t> starts;  ///< of each tap: where position 0 meets it there

  int64_t tap_count() const { return static_cast<int64_t>(taps.size()); }
  int64_t source(int64_t tap, int64_t j) const { return sources[static_cast<size_t>(tap * count + j)]; }
};

/// With `split_phases`, positions are split so that no tap of a phase falls between dilated inputs.
std::vector<AxisPhase> axis_phases(const ConvProblem& problem, int axis, bool split_phases,
                                   bool with_sources = true);

}  // namespace mlx_conv3d::cpu
