#pragma once

#include <cstdint>
#include <vector>

#include "cpu/geometry.h"
#include "cpu/row_phase.h"

namespace mlx_conv3d::cpu {

/// The input of depthwise kernels, forward and backward, read where it lies: rows and columns of zeros are
/// left out by the kernels.
class DepthwiseInput {
 public:
  DepthwiseInput(const ConvProblem& problem, const Operands& operands);

  const AxisPhase& depth() const { return d_; }
  const AxisPhase& height() const { return h_; }
  const RowPhase& width() const { return w_; }
  /// First channel of each vector.
  const std::vector<int32_t>& channels() const { return channels_; }

  /// What rows of output rows [first, last) have of vectors [from, to), but for the rows themselves.
  DepthwiseRows rows_of(int64_t first, int64_t last, int64_t from, int64_t to) const;
  /// The input rows that output rows [first, last) of a frame meet, of every depth tap's frame, and these
  /// frames' columns.
  void find_rows(int64_t n, int64_t od, int64_t first, int64_t last, std::vector<const void*>& rows,
                 DepthwiseColumns* columns) const;
  /// The rows of x that the next output frame is the first to meet.
  void find_next(int64_t n, int64_t od, int64_t first, int64_t last, std::vector<const void*>& rows) const;

 private:
  static RowPhase whole_row(const ConvProblem& p);
  void choose_channels();
  std::vector<int64_t> make_columns(const TensorView& x) const;
  void find_inner();
  void find_frame_rows(const Frame& frame, int64_t first, int64_t last, std::vector<const void*>& rows) const;

  const ConvProblem& p_;
  const TensorView x_, lead_;
  const Input input_;
  const AxisPhase d_, h_;
  const RowPhase w_;
  std::vector<int32_t> channels_;
  std::vector<int64_t> x_columns_, lead_columns_;
  int64_t inner_begin_ = 0, inner_end_ = 0;
};

}  // namespace mlx_conv3d::cpu
