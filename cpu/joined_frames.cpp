#include "cpu/joined_frames.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "core/integers.h"
#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

/// Positions worth leaving the last ones of an array to a piece of their own, so that only those are copied.
constexpr int64_t kWorthCutting = 8;

}  // namespace

JoinedFrames::JoinedFrames(const ConvProblem& p, int64_t cols, int64_t slack, const Operands& operands,
                           Workspace& workspace)
    : GroupedTasks(p, Input(p, operands), false),
      area_(p.input[kHeight] * p.input[kWidth]),
      cols_(cols),
      behind_(slack),
      arrays_{array(operands.lead, 0, p.lead), array(operands.x, p.lead, p.input[kDepth])} {
  find_segments();
  const auto taps = static_cast<size_t>(d_.tap_count());
  threads_.resize(static_cast<size_t>(thread_count()));
  for (Thread& t : threads_) {
    t.rows.resize(taps);
    for (size_t k = 0; k < taps; ++k) {
      t.staged.push_back(workspace.floats(cols * p.in_channels + slack));
    }
  }
}

JoinedFrames::Array JoinedFrames::array(const TensorView& view, int64_t first, int64_t frames) const {
  const int64_t sizes[] = {p_.batch, frames, p_.input[kHeight], p_.input[kWidth]};
  const bool follows =
      p_.x_type == Dtype::float32 && pixel_stride(view, sizes, 0, p_.in_channels) == p_.in_channels;
  const int64_t floats = p_.batch * frames * area_ * p_.in_channels;
  const auto* pixels = follows ? reinterpret_cast<const float*>(view.data) : nullptr;
  return {pixels, follows ? pixels + floats : nullptr, first, frames};
}

void JoinedFrames::find_segments() {
  std::set<int64_t> cuts{0, d_.count};
  const auto cut = [&](int64_t frame) {
    if (frame > 0 && frame < d_.count) cuts.insert(frame);
  };
  for (const int64_t start : d_.starts) {
    for (const int64_t meets : {int64_t{0}, p_.lead, p_.stored(kDepth)}) cut(meets - start);
    if (p_.pad_mode[kDepth] == PadMode::zeros) continue;
    // What the padding repeats does not follow itself.
    for (int64_t frame = 0; frame < std::min(-start, d_.count); ++frame) cut(frame);
    for (int64_t frame = std::max<int64_t>(0, p_.stored(kDepth) - start); frame < d_.count; ++frame)
      cut(frame);
  }
  for (auto next = cuts.begin(), begin = next++; next != cuts.end(); begin = next++) {
    Segment segment{*begin, *next, {}};
    for (const int64_t start : d_.starts) segment.from.push_back(p_.source_index(kDepth, start + *begin));
    segments_.push_back(std::move(segment));
  }
}

int64_t JoinedFrames::count() const { return divide_up(p_.out_positions(), cols_); }

void JoinedFrames::run(int64_t i, int thread, const Body& f) {
  const int64_t all = p_.out_positions(), per_item = d_.count * area_;
  const int64_t last = all * (i + 1) / count();
  for (int64_t at = all * i / count(); at < last;) {
    const int64_t n = at / per_item, begin = at - n * per_item;
    const auto segment = std::find_if(segments_.begin(), segments_.end(),
                                      [&](const Segment& s) { return begin < s.end * area_; });
    int64_t end = std::min(last - n * per_item, segment->end * area_);
    end = whole_positions(n, *segment, begin, end);
    run_piece(n, *segment, begin, end, threads_[static_cast<size_t>(thread)], f);
    at = n * per_item + end;
  }
}

/// Where to end a piece so that it need not be copied for the few inputs that kernels read behind its end.
int64_t JoinedFrames::whole_positions(int64_t n, const Segment& segment, int64_t begin, int64_t end) const {
  const int64_t behind = divide_up(behind_, p_.in_channels);
  if (end - begin < kWorthCutting * behind) return end;
  for (const int64_t from : segment.from) {
    const int64_t at = (from - segment.begin) * area_ + begin;
    if (from >= 0 && in_place(n, at, end - begin) == nullptr) return end - behind;
  }
  return end;
}

/// Pixels [at, at + count) of the stored frames of item n, with what is read behind them.
const float* JoinedFrames::in_place(int64_t n, int64_t at, int64_t count) const {
  const Array& a = array_of(at / area_);
  if (a.pixels == nullptr) return nullptr;
  const float* pixels = a.pixels + ((n * a.frames - a.first) * area_ + at) * p_.in_channels;
  return a.end - pixels >= count * p_.in_channels + behind_ ? pixels : nullptr;
}

const float* JoinedFrames::stage(int64_t n, int64_t at, int64_t count, float* to) const {
  const int64_t channels = p_.in_channels, width = p_.input[kWidth], item = input_.item();
  float* const staged = to;
  for (int64_t left = count; left > 0;) {
    const Frame frame = input_.frame(n, at / area_);
    const int64_t h = at % area_ / width, w = at % width, columns = std::min(left, width - w);
    const char* row = frame.data + h * frame.row_stride + w * frame.col_stride;
    if (frame.col_stride == channels * item) {
      const bool rows_follow = frame.row_stride == width * frame.col_stride;
      const int64_t pixels = rows_follow ? std::min(left, area_ - at % area_) : columns;
      k_.to_float(p_.x_type, row, to, pixels * channels);
      at += pixels, left -= pixels, to += pixels * channels;
      continue;
    }
    for (int64_t i = 0; i < columns; ++i, to += channels) {
      k_.to_float(p_.x_type, row + i * frame.col_stride, to, channels);
    }
    at += columns, left -= columns;
  }
  std::memset(to, 0, static_cast<size_t>(behind_) * sizeof(float));
  return staged;
}

void JoinedFrames::run_piece(int64_t n, const Segment& segment, int64_t begin, int64_t end, Thread& t,
                             const Body& f) {
  for (size_t k = 0; k < t.rows.size(); ++k) {
    const int64_t from = segment.from[k], at = (from - segment.begin) * area_ + begin;
    t.rows[k] = from < 0 ? nullptr : in_place(n, at, end - begin);
    if (from >= 0 && t.rows[k] == nullptr) t.rows[k] = stage(n, at, end - begin, t.staged[k]);
  }
  Block block{};
  block.begin = n * d_.count * area_ + begin;
  block.end = n * d_.count * area_ + end;
  block.rows = rows_of(end - begin, p_.in_channels, vectors_);
  block.rows.rows = t.rows.data();
  block.rows.col_taps = 1;
  block.rows.col_offsets = &origin_;
  f(block);
}

}  // namespace mlx_conv3d::cpu
