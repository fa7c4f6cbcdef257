#pragma once

#include <functional>
#include <vector>

#include "core/plan_grouped.h"
#include "cpu/grouped_layout.h"
#include "cpu/row_phase.h"

namespace mlx_conv3d::cpu {

/// Tasks of output positions for the grouped kernels and cpu/frame_gemm.h: rows of inputs for every tap, and
/// where the outputs go.
class GroupedTasks {
 public:
  /// One row of positions of one phase, as the kernels take them, but for weights and outputs.
  struct Block {
    GroupedRows rows;
    int64_t phase;
    int64_t begin, end;  ///< positions of the phase
    int64_t row;         ///< output row over (N, D, H)
  };
  using Body = std::function<void(const Block&)>;

  virtual ~GroupedTasks() = default;
  virtual int64_t count() const = 0;
  /// Reads or stages what task i needs and calls f for all of its rows in turn.
  virtual void run(int64_t i, int thread, const Body& f) = 0;

  /// Groups of a woven block (PixelBlocks), or 0.
  virtual int64_t woven() const { return 0; }

  /// Of pairs of bf16, the bits of the largest magnitude that was met, as TileKernels::look gives it.
  virtual uint32_t largest() const { return 0; }

  const std::vector<RowPhase>& phases() const { return phases_; }
  const std::vector<GroupedVector>& vectors() const { return vectors_; }
  std::vector<int64_t> weight_offsets(const RowPhase& phase, const WeightView& w) const {
    return cpu::weight_offsets(p_, d_, h_, phase, w);
  }
  /// Output channel of a lane.
  int64_t channel(int64_t vector, int lane) const { return (vectors_[vector].out + lane) % p_.out_channels; }
  /// Element offset of a phase's position in the output.
  int64_t output_offset(const Block& block, int64_t position) const {
    const AxisPhase& w = phases_[block.phase].axis;
    return (block.row * p_.output(kWidth) + w.first + position * w.step) * p_.out_channels;
  }

 protected:
  /// Without `with_sources` the depth axis lists no sources.
  GroupedTasks(const ConvProblem& problem, const Input& input, bool with_sources);

  /// A block of `positions` positions, `pixel` floats from one staged column to the next; rows and column
  /// taps are left to fill in.
  GroupedRows rows_of(int64_t positions, int64_t pixel, const std::vector<GroupedVector>& vectors) const;

  const ConvProblem& p_;
  const Kernels& k_;
  const Input input_;
  const AxisPhase d_, h_;
  const std::vector<RowPhase> phases_;
  const int64_t set_, slack_;
  const std::vector<GroupedVector> vectors_;  ///< with places in a set of the input
};

}  // namespace mlx_conv3d::cpu
