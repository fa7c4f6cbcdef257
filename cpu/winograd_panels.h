#pragma once

#include <vector>

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/winograd_products.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// The products of a chunk with one panel of output channels at a time, whose weights are made block by block
/// of input channels in the cache of the thread that multiplies with them.
class WinogradPanelProducts {
 public:
  /// Takes its scratch from the workspace.
  WinogradPanelProducts(const ConvProblem& problem, const WinogradPlan& plan, const WeightView& w,
                        Workspace& workspace);

  /// Of output channels, shared out evenly among the threads.
  const Panels& panels() const { return panels_; }

  /// Inputs [block of channels][frequency][input frame][tile][channel of the block] to
  /// [product][frame][tile][lane], which stay in the thread's scratch until its next call.
  const float* multiply(const WinogradChunk& chunk, int64_t panel, const float* inputs, int thread) const;

 private:
  /// Output frames [begin, end) that meet the same depth taps.
  struct Run {
    int64_t begin, end;
  };
  std::vector<Run> runs_of(const WinogradChunk& chunk) const;
  bool meets(const WinogradChunk& chunk, const Run& run, int64_t kd) const;

  const ConvProblem& p_;
  const WinogradPlan& plan_;
  const WeightView& w_;
  const Kernels& k_;
  const WinogradForm form_;
  const AxisPhase depth_;
  const Panels panels_;
  std::vector<float*> scratch_;  ///< [thread]
};

}  // namespace mlx_conv3d::cpu
