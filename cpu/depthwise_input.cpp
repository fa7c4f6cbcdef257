#include "cpu/depthwise_input.h"

#include <algorithm>
#include <numeric>

#include "core/integers.h"

namespace mlx_conv3d::cpu {
namespace {

/// Vectors of channels from which on one more is cheaper than loads that span two cache lines.
constexpr int64_t kLeastAligned = 8;

}  // namespace

DepthwiseInput::DepthwiseInput(const ConvProblem& p, const Operands& operands)
    : p_(p),
      x_(operands.x),
      lead_(operands.lead),
      input_(p, operands),
      d_(axis_phases(p, kDepth, false).front()),
      h_(axis_phases(p, kHeight, false).front()),
      w_(whole_row(p)) {
  choose_channels();
  x_columns_ = make_columns(x_);
  if (p.lead > 0) lead_columns_ = make_columns(lead_);
  find_inner();
}

/// One phase even of a dilated input, whose zeros between the pixels are columns that do not exist.
RowPhase DepthwiseInput::whole_row(const ConvProblem& p) {
  return {axis_phases(p, kWidth, false, false).front(), p.stride[kWidth], 1, 0, -p.pad_lo[kWidth], 1};
}

/// The last vector of channels begins within the one before it, and where it pays so does the second: as
/// many pixels as can be have the others aligned then.
void DepthwiseInput::choose_channels() {
  const int64_t width = kernels().width, channels = p_.out_channels, beyond = channels - width;
  const int64_t step = std::gcd(x_.stride[3], width);
  const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(x_.data)) / input_.item() % step;
  const bool pays = 2 * step >= width && channels >= kLeastAligned * width;
  const bool free = divide_up(channels - width + past, width) < divide_up(channels, width);
  const int64_t second = pays || free ? width - past : width;
  channels_.push_back(0);
  for (int64_t c = second; channels_.back() < beyond; c += width) {
    channels_.push_back(static_cast<int32_t>(std::min(c, beyond)));
  }
}

/// Some more than there are, for blocks of positions that do not all exist.
std::vector<int64_t> DepthwiseInput::make_columns(const TensorView& x) const {
  std::vector<int64_t> columns(static_cast<size_t>(w_.columns(w_.axis.count)));
  for (size_t q = 0; q < columns.size(); ++q) {
    const int64_t column = w_.column(p_, static_cast<int64_t>(q));
    columns[q] = column < 0 ? kNoColumn : column * x.stride[3];
  }
  columns.resize(columns.size() + kDepthwiseSlack, kNoColumn);
  return columns;
}

/// The first positions in a row whose columns are all there and follow each other.
void DepthwiseInput::find_inner() {
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

DepthwiseRows DepthwiseInput::rows_of(int64_t first, int64_t last, int64_t from, int64_t to) const {
  DepthwiseRows r{};
  r.depth_taps = d_.tap_count();
  r.out_rows = last - first;
  r.positions = w_.axis.count;
  r.next_pixel = x_.stride[3];
  r.inner_begin = inner_begin_;
  r.inner_end = inner_end_;
  r.vectors = to - from;
  r.channel = channels_.data() + from;
  r.channels = p_.out_channels;
  r.row_step = w_.axis.count * p_.out_channels;
  return r;
}

void DepthwiseInput::find_rows(int64_t n, int64_t od, int64_t first, int64_t last,
                               std::vector<const void*>& rows, DepthwiseColumns* columns) const {
  for (int64_t kd = 0; kd < d_.tap_count(); ++kd) {
    const int64_t sd = d_.source(kd, od);
    const bool in_lead = sd >= 0 && sd < p_.lead;
    columns[kd] = in_lead ? DepthwiseColumns{lead_columns_.data(), lead_.stride[3]}
                          : DepthwiseColumns{x_columns_.data(), x_.stride[3]};
    const Frame frame = sd < 0 ? Frame{} : input_.frame(n, sd);
    find_frame_rows(frame, first, last, rows);
  }
}

void DepthwiseInput::find_next(int64_t n, int64_t od, int64_t first, int64_t last,
                               std::vector<const void*>& rows) const {
  const int64_t taps = d_.tap_count();
  const bool wanted = taps > 1 && od + 1 < d_.count && !p_.input_dilated();
  const int64_t sd = wanted ? d_.source(taps - 1, od + 1) : -1;
  if (sd >= p_.lead) find_frame_rows(input_.frame(n, sd), first, last, rows);
}

/// Of no frame, null.
void DepthwiseInput::find_frame_rows(const Frame& frame, int64_t first, int64_t last,
                                     std::vector<const void*>& rows) const {
  const int64_t taps = h_.tap_count(), stride = p_.stride[kHeight];
  for (int64_t ih = 0; ih < (last - first - 1) * stride + taps; ++ih) {
    const int64_t later = ih < taps ? 0 : divide_up(ih - taps + 1, stride);
    const int64_t sh = h_.source(ih - later * stride, first + later);
    rows.push_back(frame.data == nullptr || sh < 0 ? nullptr : frame.data + sh * frame.row_stride);
  }
}

}  // namespace mlx_conv3d::cpu
