#pragma once

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// Grouped convolution: few channels per group lane by lane, many as one blocked product per group.
void grouped(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands, Workspace& workspace);

/// How the lanes of the output vectors read their groups' inputs.
struct LaneMap {
  LaneMap(const ConvProblem& problem, int width);
  int64_t vectors;
  std::vector<int32_t> source;
  std::vector<uint8_t> shape;
};

/// Pointers to the pixels that each tap of each output position of a row meets.
class PixelRow {
 public:
  PixelRow(const ConvProblem& problem, const Operands& operands);
  int64_t rows() const { return p_.batch * p_.output(kDepth) * p_.output(kHeight); }
  int64_t width() const { return p_.output(kWidth); }
  /// pixels[(position - begin) * taps + tap] for positions [begin, end) of output row `row`.
  void pixels(int64_t row, int64_t begin, int64_t end, const void** out) const;

 private:
  const ConvProblem& p_;
  const Input input_;
  const AxisPhase d_, h_, w_;
  const std::vector<char> zeros_;
};

}  // namespace mlx_conv3d::cpu
