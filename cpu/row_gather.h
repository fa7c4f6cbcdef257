#pragma once

#include <cstdint>
#include <vector>

#include "cpu/geometry.h"

namespace mlx_conv3d::cpu {

/// A run of consecutive products of one output position: taps kw in [kw_begin, kw_end) and channels
/// [c_begin, c_end) at depth tap `kd` and row tap `kh` (indices into the phase's taps).
struct Segment {
  int64_t kd, kh, kw_begin, kw_end, c_begin, c_end;
  int64_t length() const { return (kw_end - kw_begin) * (c_end - c_begin); }
};

/// A phase of the output as rows of a matrix product.
class RowGather {
 public:
  RowGather(const ConvProblem& problem, const Input& input, const AxisPhase& d, const AxisPhase& h,
            const AxisPhase& w)
      : p_(problem),
        input_(input),
        d_(d),
        h_(h),
        w_(w),
        in_order_(d.step == 1 && h.step == 1 && w.step == 1) {}

  int64_t planes() const { return p_.batch * d_.count; }
  int64_t plane_rows() const { return h_.count * w_.count; }
  int64_t rows() const { return planes() * plane_rows(); }
  bool in_order() const { return in_order_; }
  /// Element offset of row r in the output.
  int64_t output_offset(int64_t r) const;
  bool plane_reads_zero(int64_t plane, int64_t kd) const { return d_.source(kd, plane % d_.count) < 0; }

  /// Cuts all products of the phase into blocks of at most `depth`; with `by_depth_tap`, none spans two kd.
  std::vector<std::vector<Segment>> blocks(int64_t depth, bool by_depth_tap) const;
  /// Weight element offsets of a block's products.
  void weight_offsets(const std::vector<Segment>& block, const WeightView& w,
                      std::vector<int64_t>& out) const;
  /// Copies the block's inputs of rows [first, first + count) as floats, `stride` floats from row to row.
  void pack(const Kernels& k, const std::vector<Segment>& block, int64_t channel, int64_t first,
            int64_t count, float* out, int64_t stride) const;

  /// Whether a plane's rows are evenly spaced in the input, so that a GEMM can read them where they lie.
  bool rows_in_place() const;
  /// With rows_in_place: row `first` of `plane` at depth tap kd, and the floats between rows.
  const float* row_in_place(int64_t plane, int64_t first, int64_t kd, int64_t channel, int64_t* stride) const;

 private:
  /// Whether `count` columns from jw on meet stored pixels in a row.
  bool follow_each_other(int64_t kw, int64_t jw, int64_t count) const;
  void pack_run(const Kernels& k, const Segment& segment, int64_t channel, int64_t plane, int64_t jh,
                int64_t jw, int64_t count, float* out, int64_t stride) const;

  const ConvProblem& p_;
  const Input& input_;
  const AxisPhase &d_, &h_, &w_;
  const bool in_order_;  ///< a phase of all output positions: row r is the output's position r
};

}  // namespace mlx_conv3d::cpu
