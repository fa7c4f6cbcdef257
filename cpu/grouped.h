#pragma once

#include <vector>

#include "core/plan.h"
#include "cpu/row_phase.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// Grouped convolution by the plan's kernel, if it has one; else few channels per group lane by lane, many as
/// one blocked product per group.
void grouped(const ConvProblem& problem, const Candidate& plan, const Operands& operands,
             Workspace& workspace);

/// Output rows cut into pieces for the direct kernels, forward and backward. Of a dilated input a piece has
/// one phase of a row's positions, so that no column tap meets the zeros between the pixels.
class DirectTasks {
 public:
  DirectTasks(const ConvProblem& problem, const Operands& operands);

  struct Piece {
    int64_t row;  ///< output row over (N, D, H)
    int64_t phase, begin, end;
  };

  int64_t count() const { return rows_ * static_cast<int64_t>(pieces_.size()); }
  Piece piece(int64_t i) const;
  const std::vector<RowPhase>& phases() const { return phases_; }
  /// Element offset of a phase's position in the output.
  int64_t output_offset(const Piece& piece, int64_t position) const {
    const AxisPhase& w = phases_[piece.phase].axis;
    return (piece.row * p_.output(kWidth) + w.first + position * w.step) * p_.out_channels;
  }
  int64_t vectors() const { return vectors_; }
  int64_t pitch() const;
  std::vector<int64_t> weight_offsets(const RowPhase& phase, const WeightView& w) const {
    return cpu::weight_offsets(p_, d_, h_, phase, w);
  }
  /// Everything but weights and out; the pixels are kept for `thread`.
  DirectRow row(const Piece& piece, int thread);

 private:
  const ConvProblem& p_;
  const Input input_;
  const AxisPhase d_, h_;
  const std::vector<RowPhase> phases_;
  std::vector<std::vector<int64_t>> columns_of_;  ///< [phase][column] of a whole row
  const std::vector<char> zeros_;
  int64_t rows_, vectors_, columns_ = 0;
  std::vector<Piece> pieces_;  ///< of row 0
  std::vector<int32_t> source_;
  std::vector<uint8_t> shape_;
  std::vector<std::vector<const void*>> pixels_;
};

}  // namespace mlx_conv3d::cpu
