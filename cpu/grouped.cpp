#include "cpu/grouped.h"

#include <algorithm>

#include "cpu/gather_gemm.h"
#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

constexpr int64_t kPositions = kDirectPositions;

void pack_weights(const ConvProblem& p, const WeightView& w, int width, int64_t vectors, float* out) {
  const Kernels& k = kernels();
  std::vector<int64_t> offsets;
  for (int64_t kd = 0; kd < p.kernel[0]; ++kd) {
    for (int64_t kh = 0; kh < p.kernel[1]; ++kh) {
      for (int64_t kw = 0; kw < p.kernel[2]; ++kw) {
        const Size3 tap = p.flip ? Size3{p.kernel[0] - 1 - kd, p.kernel[1] - 1 - kh, p.kernel[2] - 1 - kw}
                                 : Size3{kd, kh, kw};
        for (int64_t c = 0; c < p.group_in(); ++c) {
          offsets.push_back(tap[0] * w.stride[1] + tap[1] * w.stride[2] + tap[2] * w.stride[3] + c * w.stride[4]);
        }
      }
    }
  }
  parallel_for(vectors, [&](int64_t v, int) {
    GemmWeightPanel panel{};
    panel.w = w;
    panel.w.data = static_cast<const char*>(w.data) + v * width * w.stride[0] * item_size(w.type);
    panel.offsets = offsets.data();
    panel.k = static_cast<int64_t>(offsets.size());
    panel.out_channels = p.out_channels - v * width;
    panel.vectors = 1;
    panel.out = out + v * width * panel.k;
    k.pack_weight(panel);
  });
}

void direct(const ConvProblem& p, const Operands& operands, Workspace& workspace) {
  const Kernels& k = kernels();
  const LaneMap lanes(p, k.width);
  const PixelRow rows(p, operands);
  const int64_t pitch = lanes.vectors * k.width;
  float* weights = workspace.floats(pitch * p.taps() * p.group_in());
  pack_weights(p, operands.w, k.width, lanes.vectors, weights);
  std::vector<float*> sums;
  for (int t = 0; t < thread_count(); ++t) sums.push_back(workspace.floats(kPositions * pitch));
  const int64_t pieces = (rows.width() + kPositions - 1) / kPositions;
  std::vector<std::vector<const void*>> pixels(sums.size());
  for (auto& list : pixels) list.resize(static_cast<size_t>(kPositions * p.taps()));
  parallel_for(rows.rows() * pieces, [&](int64_t i, int thread) {
    const int64_t row = i / pieces, begin = i % pieces * kPositions;
    const int64_t end = std::min(rows.width(), begin + kPositions);
    rows.pixels(row, begin, end, pixels[thread].data());
    DirectRow work{};
    work.pixels = pixels[thread].data();
    work.positions = end - begin;
    work.taps = p.taps();
    work.group_in = p.group_in();
    work.vectors = lanes.vectors;
    work.source = lanes.source.data();
    work.shape = lanes.shape.data();
    work.weights = weights;
    work.out = sums[thread];
    k.direct(p.x_type, work);
    for (int64_t j = begin; j < end; ++j) {
      const int64_t at = (row * rows.width() + j) * p.out_channels;
      k.store(operands.epilogue, sums[thread] + (j - begin) * pitch, 0, at,
              static_cast<char*>(operands.y) + at * item_size(p.out_type), p.out_channels);
    }
  });
}

}  // namespace

LaneMap::LaneMap(const ConvProblem& p, int width) : vectors((p.out_channels + width - 1) / width) {
  const int64_t lanes = vectors * width;
  for (int64_t o = 0; o < lanes; ++o) {
    const int64_t group = std::min(o, p.out_channels - 1) / p.group_out();
    source.push_back(static_cast<int32_t>(group * p.group_in()));
  }
  for (int64_t v = 0; v < vectors; ++v) {
    const int32_t* s = source.data() + v * width;
    bool same = true, follows = p.group_in() == 1 && (v + 1) * width <= p.out_channels;
    for (int l = 1; l < width; ++l) {
      same = same && s[l] == s[0];
      follows = follows && s[l] == s[0] + l;
    }
    shape.push_back(follows ? kContiguous : same ? kBroadcast : kGather);
  }
}

PixelRow::PixelRow(const ConvProblem& problem, const Operands& operands)
    : p_(problem),
      input_(problem, operands),
      d_(axis_phases(problem, kDepth, false).front()),
      h_(axis_phases(problem, kHeight, false).front()),
      w_(axis_phases(problem, kWidth, false).front()),
      zeros_(static_cast<size_t>(problem.in_channels * 4 + 64)) {}

void PixelRow::pixels(int64_t row, int64_t begin, int64_t end, const void** out) const {
  const int64_t oh = row % h_.count, od = row / h_.count % d_.count, n = row / h_.count / d_.count;
  const int64_t taps = p_.taps();
  int64_t tap = 0;
  for (int64_t kd = 0; kd < d_.tap_count(); ++kd) {
    const int64_t sd = d_.source(kd, od);
    const Frame frame = sd < 0 ? Frame{} : input_.frame(n, sd);
    for (int64_t kh = 0; kh < h_.tap_count(); ++kh) {
      const int64_t sh = h_.source(kh, oh);
      for (int64_t kw = 0; kw < w_.tap_count(); ++kw, ++tap) {
        for (int64_t j = begin; j < end; ++j) {
          const int64_t sw = w_.source(kw, j);
          const bool zero = sd < 0 || sh < 0 || sw < 0;
          out[(j - begin) * taps + tap] =
              zero ? zeros_.data() : frame.data + sh * frame.row_stride + sw * frame.col_stride;
        }
      }
    }
  }
}

void grouped(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands, Workspace& workspace) {
  if (is_direct(problem)) {
    direct(problem, operands, workspace);
  } else {
    gather_gemm(problem, plan, operands, {}, workspace);
  }
}

}  // namespace mlx_conv3d::cpu
