// From output positions to the input values that meet each weight.

#include "cpu/row_gather.h"

#include <algorithm>
#include <cstring>

namespace mlx_conv3d::cpu {

int64_t RowGather::output_offset(int64_t r) const {
  if (in_order_) return r * p_.out_channels;
  const int64_t jw = r % w_.count, jh = r / w_.count % h_.count;
  const int64_t plane = r / plane_rows();
  const int64_t n = plane / d_.count, jd = plane % d_.count;
  const int64_t od = d_.first + jd * d_.step, oh = h_.first + jh * h_.step, ow = w_.first + jw * w_.step;
  return (((n * p_.output(0) + od) * p_.output(1) + oh) * p_.output(2) + ow) * p_.out_channels;
}

std::vector<std::vector<Segment>> RowGather::blocks(int64_t depth, bool by_depth_tap) const {
  std::vector<std::vector<Segment>> all;
  const int64_t channels = p_.group_in(), kw = w_.tap_count();
  if (channels == 0 || kw == 0) return all;
  int64_t held = 0;
  const auto push = [&](const Segment& s) {
    const bool breaks =
        all.empty() || held + s.length() > depth || (by_depth_tap && all.back().back().kd != s.kd);
    if (breaks) {
      all.emplace_back();
      held = 0;
    }
    all.back().push_back(s);
    held += s.length();
  };
  for (int64_t kd = 0; kd < d_.tap_count(); ++kd) {
    for (int64_t kh = 0; kh < h_.tap_count(); ++kh) {
      if (kw * channels <= depth) {
        push({kd, kh, 0, kw, 0, channels});
        continue;
      }
      const int64_t pieces = (channels + depth - 1) / depth;
      for (int64_t tap = 0; tap < kw; ++tap) {
        for (int64_t i = 0; i < pieces; ++i) {
          push({kd, kh, tap, tap + 1, channels * i / pieces, channels * (i + 1) / pieces});
        }
      }
    }
  }
  return all;
}

void RowGather::weight_offsets(const std::vector<Segment>& block, const WeightView& w,
                               std::vector<int64_t>& out) const {
  out.clear();
  for (const Segment& s : block) {
    for (int64_t kw = s.kw_begin; kw < s.kw_end; ++kw) {
      const int64_t tap =
          d_.taps[s.kd] * w.stride[1] + h_.taps[s.kh] * w.stride[2] + w_.taps[kw] * w.stride[3];
      for (int64_t c = s.c_begin; c < s.c_end; ++c) out.push_back(tap + c * w.stride[4]);
    }
  }
}

void RowGather::pack(const Kernels& k, const std::vector<Segment>& block, int64_t channel, int64_t first,
                     int64_t count, float* out, int64_t stride) const {
  // Runs of output positions within one output row share their input rows.
  while (count > 0) {
    const int64_t jw = first % w_.count, run = std::min(count, w_.count - jw);
    const int64_t jh = first / w_.count % h_.count, plane = first / plane_rows();
    float* to = out;
    for (const Segment& s : block) {
      pack_run(k, s, channel, plane, jh, jw, run, to, stride);
      to += s.length();
    }
    first += run;
    count -= run;
    out += run * stride;
  }
}

void RowGather::pack_run(const Kernels& k, const Segment& s, int64_t channel, int64_t plane, int64_t jh,
                         int64_t jw, int64_t count, float* out, int64_t stride) const {
  const int64_t channels = s.c_end - s.c_begin, taps = s.kw_end - s.kw_begin;
  const int64_t sd = d_.source(s.kd, plane % d_.count), sh = h_.source(s.kh, jh);
  if (sd < 0 || sh < 0) {
    for (int64_t i = 0; i < count; ++i, out += stride) {
      std::memset(out, 0, static_cast<size_t>(s.length()) * sizeof(float));
    }
    return;
  }
  const Frame frame = input_.frame(plane / d_.count, sd);
  const char* row = frame.data + sh * frame.row_stride + (channel + s.c_begin) * input_.item();
  // Neighbouring pixels with nothing between them are one copy.
  const bool joined = p_.groups == 1 && channels * input_.item() == frame.col_stride;
  if (joined && taps == 1 && stride == channels && follow_each_other(s.kw_begin, jw, count)) {
    k.to_float(p_.x_type, row + w_.source(s.kw_begin, jw) * frame.col_stride, out, count * channels);
    return;
  }
  for (int64_t i = 0; i < count; ++i, out += stride) {
    float* to = out;
    for (int64_t kw = s.kw_begin; kw < s.kw_end;) {
      const int64_t sw = w_.source(kw, jw + i);
      int64_t together = 1;
      if (sw < 0) {
        std::memset(to, 0, static_cast<size_t>(channels) * sizeof(float));
      } else {
        if (joined && taps > 1) {
          while (kw + together < s.kw_end && w_.source(kw + together, jw + i) == sw + together) ++together;
        }
        k.to_float(p_.x_type, row + sw * frame.col_stride, to, channels * together);
      }
      to += channels * together;
      kw += together;
    }
  }
}

bool RowGather::follow_each_other(int64_t kw, int64_t jw, int64_t count) const {
  const int64_t first = w_.source(kw, jw);
  for (int64_t i = 0; i < count; ++i) {
    if (first < 0 || w_.source(kw, jw + i) != first + i) return false;
  }
  return true;
}

bool RowGather::rows_in_place() const {
  if (p_.x_type != Dtype::float32 || h_.tap_count() != 1 || w_.tap_count() != 1) return false;
  for (const AxisPhase* axis : {&h_, &w_}) {
    for (int64_t j = 0; j < axis->count; ++j) {
      if (axis->source(0, j) != axis->source(0, 0) + j || axis->source(0, j) < 0) return false;
    }
  }
  // The rows of a plane must follow each other without a gap, in x and in the lead frames.
  for (int64_t d : {int64_t{0}, p_.stored(kDepth) - 1}) {
    const Frame f = input_.frame(0, d);
    if (h_.count > 1 && f.row_stride != f.col_stride * w_.count) return false;
  }
  return true;
}

const float* RowGather::row_in_place(int64_t plane, int64_t first, int64_t kd, int64_t channel,
                                     int64_t* stride) const {
  const Frame f = input_.frame(plane / d_.count, d_.source(kd, plane % d_.count));
  *stride = f.col_stride / static_cast<int64_t>(sizeof(float));
  const char* row = f.data + h_.source(0, 0) * f.row_stride + (w_.source(0, 0) + first) * f.col_stride;
  return reinterpret_cast<const float*>(row) + channel;
}

}  // namespace mlx_conv3d::cpu
