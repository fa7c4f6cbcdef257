// Depthwise convolution without a copy of its input: rows and columns of zeros are left out by the kernels.

#include "cpu/depthwise.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/integers.h"
#include "cpu/geometry.h"
#include "cpu/row_phase.h"
#include "cpu/threads.h"
#include "cpu/weight_panel.h"

namespace mlx_conv3d::cpu {
namespace {

/// Vectors of channels from which on one more is cheaper than loads that span two cache lines.
constexpr int64_t kLeastAligned = 8;

class Depthwise {
 public:
  Depthwise(const ConvProblem& p, const GroupedPlan& plan, const Operands& operands, Workspace& workspace)
      : p_(p),
        operands_(operands),
        k_(kernels()),
        input_(p, operands),
        d_(axis_phases(p, kDepth, false).front()),
        h_(axis_phases(p, kHeight, false).front()),
        w_(whole_row(p)),
        run_(k_.depthwise(p.kernel[kWidth], p.stride[kWidth], p.input_dilation[kWidth], p.x_type)),
        parts_(divide_up(d_.count, plan.frames)),
        bands_(divide_up(h_.count, plan.band)) {
    slices_ = divide_up(divide_up(p.out_channels, k_.width), plan.vectors);
    choose_channels();
    pack_weights(workspace);
    x_columns_ = make_columns(operands.x);
    if (p.lead > 0) lead_columns_ = make_columns(operands.lead);
    find_inner();
  }

  void run() {
    parallel_for(slices_ * p_.batch * parts_ * bands_, [&](int64_t i, int) { run_task(i); });
  }

 private:
  /// One phase even of a dilated input, whose zeros between the pixels are columns that do not exist.
  static RowPhase whole_row(const ConvProblem& p) {
    return {axis_phases(p, kWidth, false, false).front(), p.stride[kWidth], 1, 0, -p.pad_lo[kWidth], 1};
  }

  /// The last vector of channels begins within the one before it, and where it pays so does the second: as
  /// many pixels as can be have the others aligned then.
  void choose_channels() {
    const int64_t width = k_.width, channels = p_.out_channels, beyond = channels - width;
    const int64_t step = std::gcd(operands_.x.stride[3], width);
    const int64_t past =
        static_cast<int64_t>(reinterpret_cast<uintptr_t>(operands_.x.data)) / input_.item() % step;
    const bool pays = 2 * step >= width && channels >= kLeastAligned * width;
    const bool free = divide_up(channels - width + past, width) < divide_up(channels, width);
    const int64_t second = pays || free ? width - past : width;
    channels_.push_back(0);
    for (int64_t c = second; channels_.back() < beyond; c += width) {
      channels_.push_back(static_cast<int32_t>(std::min(c, beyond)));
    }
  }

  void pack_weights(Workspace& workspace) {
    const std::vector<int64_t> offsets = weight_offsets(p_, d_, h_, w_, operands_.w);
    const int64_t per_vector = static_cast<int64_t>(offsets.size()) * k_.width;
    const size_t count = channels_.size();
    weights_ = workspace.floats(static_cast<int64_t>(count) * per_vector);
    for (size_t begin = 0, end; begin < count; begin = end) {
      end = begin + 1;
      while (end < count && channels_[end] - channels_[end - 1] == k_.width) ++end;
      WeightView w = operands_.w;
      w.data = static_cast<const char*>(w.data) + channels_[begin] * w.stride[0] * item_size(w.type);
      pack_vectors(w, static_cast<int64_t>(end - begin) * k_.width, offsets,
                   weights_ + static_cast<int64_t>(begin) * per_vector);
    }
  }

  /// Some more than there are, for blocks of positions that do not all exist.
  std::vector<int64_t> make_columns(const TensorView& x) const {
    std::vector<int64_t> columns(static_cast<size_t>(w_.columns(w_.axis.count)));
    for (size_t q = 0; q < columns.size(); ++q) {
      const int64_t column = w_.column(p_, static_cast<int64_t>(q));
      columns[q] = column < 0 ? kNoColumn : column * x.stride[3];
    }
    columns.resize(columns.size() + kDepthwiseSlack, kNoColumn);
    return columns;
  }

  /// The first positions in a row whose columns are all there and follow each other.
  void find_inner() {
    const int64_t taps = w_.axis.tap_count(), dilation = p_.input_dilation[kWidth];
    const auto inner = [&](int64_t position) {
      const int64_t begin = position * w_.stride, past = (begin - p_.pad_lo[kWidth]) % dilation;
      const int64_t pixel = begin + (dilation - past) % dilation, first = w_.column(p_, pixel);
      for (int64_t q = pixel; q < begin + taps; q += dilation) {
        if (first < 0 || w_.column(p_, q) != first + (q - pixel) / dilation) return false;
      }
      return true;
    };
    while (inner_begin_ < w_.axis.count && !inner(inner_begin_)) ++inner_begin_;
    inner_end_ = inner_begin_;
    while (inner_end_ < w_.axis.count && inner(inner_end_)) ++inner_end_;
  }

  void run_task(int64_t i) const {
    const int64_t band = i % bands_, part = i / bands_ % parts_, n = i / bands_ / parts_ % p_.batch,
                  slice = i / bands_ / parts_ / p_.batch;
    const int64_t vectors = static_cast<int64_t>(channels_.size()), from = vectors * slice / slices_;
    const int64_t first = h_.count * band / bands_, last = h_.count * (band + 1) / bands_;
    std::vector<const void*> rows, next;
    std::vector<DepthwiseColumns> columns(static_cast<size_t>(d_.tap_count()));
    DepthwiseRows r{};
    r.depth_taps = d_.tap_count();
    r.out_rows = last - first;
    r.columns = columns.data();
    r.positions = w_.axis.count;
    r.next_pixel = operands_.x.stride[3];
    r.inner_begin = inner_begin_;
    r.inner_end = inner_end_;
    r.vectors = vectors * (slice + 1) / slices_ - from;
    r.channel = channels_.data() + from;
    r.weights = weights_ + from * p_.taps() * k_.width;
    r.epilogue = &operands_.epilogue;
    r.y = operands_.y;
    r.channels = p_.out_channels;
    r.row_step = w_.axis.count * p_.out_channels;
    for (int64_t od = d_.count * part / parts_; od < d_.count * (part + 1) / parts_; ++od) {
      rows.clear();
      next.clear();
      find_rows(n, od, first, last, rows, columns.data());
      find_next(n, od, first, last, next);
      r.rows = rows.data();
      r.next = next.empty() ? nullptr : next.data();
      r.out = ((n * d_.count + od) * h_.count + first) * r.row_step;
      run_(r);
    }
  }

  /// The input rows that output rows [first, last) meet, of every depth tap's frame.
  void find_rows(int64_t n, int64_t od, int64_t first, int64_t last, std::vector<const void*>& rows,
                 DepthwiseColumns* columns) const {
    for (int64_t kd = 0; kd < d_.tap_count(); ++kd) {
      const int64_t sd = d_.source(kd, od);
      const bool in_lead = sd >= 0 && sd < p_.lead;
      columns[kd] = in_lead ? DepthwiseColumns{lead_columns_.data(), operands_.lead.stride[3]}
                            : DepthwiseColumns{x_columns_.data(), operands_.x.stride[3]};
      const Frame frame = sd < 0 ? Frame{} : input_.frame(n, sd);
      find_frame_rows(frame, first, last, rows);
    }
  }

  /// The rows of x that the next output frame is the first to meet.
  void find_next(int64_t n, int64_t od, int64_t first, int64_t last, std::vector<const void*>& rows) const {
    const int64_t taps = d_.tap_count();
    const bool wanted = taps > 1 && od + 1 < d_.count && !p_.input_dilated();
    const int64_t sd = wanted ? d_.source(taps - 1, od + 1) : -1;
    if (sd >= p_.lead) find_frame_rows(input_.frame(n, sd), first, last, rows);
  }

  /// Of no frame, null.
  void find_frame_rows(const Frame& frame, int64_t first, int64_t last,
                       std::vector<const void*>& rows) const {
    const int64_t taps = h_.tap_count(), stride = p_.stride[kHeight];
    for (int64_t ih = 0; ih < (last - first - 1) * stride + taps; ++ih) {
      const int64_t later = ih < taps ? 0 : divide_up(ih - taps + 1, stride);
      const int64_t sh = h_.source(ih - later * stride, first + later);
      rows.push_back(frame.data == nullptr || sh < 0 ? nullptr : frame.data + sh * frame.row_stride);
    }
  }

  const ConvProblem& p_;
  const Operands& operands_;
  const Kernels& k_;
  const Input input_;
  const AxisPhase d_, h_;
  const RowPhase w_;
  const DepthwiseFunction run_;
  const int64_t parts_, bands_;
  int64_t slices_;
  std::vector<int32_t> channels_;
  float* weights_;
  std::vector<int64_t> x_columns_, lead_columns_;
  int64_t inner_begin_ = 0, inner_end_ = 0;
};

}  // namespace

void depthwise_in_place(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands,
                        Workspace& workspace) {
  Depthwise(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
