#pragma once

#include <vector>

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// Grouped convolution: few channels per group lane by lane, many as one blocked product per group.
void grouped(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands,
             Workspace& workspace);

/// Output rows cut into pieces for the direct kernels, forward and backward.
class DirectTasks {
 public:
  DirectTasks(const ConvProblem& problem, const Operands& operands);

  struct Piece {
    int64_t row, begin, end;  ///< output row over (N, D, H), positions [begin, end) of it
  };
  int64_t count() const { return rows_ * pieces_; }
  Piece piece(int64_t i) const;
  /// Element offset of a position in the output.
  int64_t output_offset(const Piece& piece, int64_t position) const {
    return (piece.row * w_.count + position) * p_.out_channels;
  }
  int64_t vectors() const { return vectors_; }
  int64_t pitch() const;
  /// Everything but weights and out; the pixels are kept for `thread`.
  DirectRow row(const Piece& piece, int thread);

 private:
  const ConvProblem& p_;
  const Input input_;
  const AxisPhase d_, h_, w_;
  const std::vector<char> zeros_;
  int64_t rows_, pieces_, vectors_, columns_;
  std::vector<int32_t> source_;
  std::vector<uint8_t> shape_;
  std::vector<int64_t> column_of_;  ///< [column]: index into the logical input's width, or -1; of a whole row
  std::vector<std::vector<const void*>> pixels_;
};

}  // namespace mlx_conv3d::cpu
