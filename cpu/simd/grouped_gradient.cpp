// Weight gradients of a grouped convolution over staged rows: for every vector of outputs, some products at a
// time are summed over all sets of a row.

#include "cpu/simd/grouped.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

/// As many as hide a multiply-add's latency; a 3x3 depthwise kernel has 9.
constexpr int kProducts = 9;

/// Products whose sums are under way: the input of each at the first set, and where its sum goes.
struct Pending {
  const float* x[kProducts];
  float* to[kProducts];
  int count = 0;
};

template <class L, int N>
SIMD_INLINE void sum_over_sets(const GroupedRows& r, const float* dy, const Pending& p, int first) {
  Vec sums[N];
#pragma GCC unroll 9
  for (int i = 0; i < N; ++i) sums[i] = Vec{};
  for (int64_t set = 0, in = 0; set < r.sets; ++set, in += r.in_step, dy += r.out_step) {
    const Vec g = load(dy);
#pragma GCC unroll 9
    for (int i = 0; i < N; ++i) sums[i] += g * L::pick(p.x[first + i] + in);
  }
#pragma GCC unroll 9
  for (int i = 0; i < N; ++i) store(p.to[first + i], load(p.to[first + i]) + sums[i]);
}

template <class L>
SIMD_INLINE void flush(const GroupedRows& r, const float* dy, Pending& p) {
  int i = 0;
  if (p.count == kProducts) {
    sum_over_sets<L, kProducts>(r, dy, p, 0);
    i = kProducts;
  }
  for (; i + 4 <= p.count; i += 4) sum_over_sets<L, 4>(r, dy, p, i);
  for (; i < p.count; ++i) sum_over_sets<L, 1>(r, dy, p, i);
  p.count = 0;
}

template <class L>
SIMD_INLINE void vector_of_outputs(const GroupedGradientRows& g, int64_t v, int64_t group_in) {
  const GroupedRows& r = g.rows;
  const float* dy = g.dy + r.vector[v].out;
  const int64_t rows = r.depth_taps * r.row_taps, per_row = r.col_taps * group_in * kWidth;
  float* to = g.sums + v * rows * per_row;
  Pending pending;
  for (int64_t row = 0; row < rows; ++row, to += per_row) {
    if (r.rows[row] == nullptr) continue;
    const float* x = r.rows[row] + r.vector[v].in;
    for (int64_t k = 0; k < r.col_taps; ++k) {
      for (int64_t c = 0; c < group_in; ++c) {
        pending.x[pending.count] = x + r.col_offsets[k] + c;
        pending.to[pending.count] = to + (k * group_in + c) * kWidth;
        if (++pending.count == kProducts) flush<L>(r, dy, pending);
      }
    }
  }
  flush<L>(r, dy, pending);
}

template <int C, int O>
void grouped(const GroupedGradientRows& g) {
  for (int64_t v = 0; v < g.rows.vectors; ++v) {
    with_phase<C, O, 0>(g.rows.vector[v].out % O, [&](auto lanes) __attribute__((always_inline)) {
      vector_of_outputs<decltype(lanes)>(g, v, C);
    });
  }
}

void broadcast(const GroupedGradientRows& g) {
  for (int64_t v = 0; v < g.rows.vectors; ++v) vector_of_outputs<OneGroup>(g, v, g.rows.group_in);
}

struct Function {
  template <size_t I>
  static constexpr GroupedGradientFunction at() {
    constexpr GroupedKernel k = kGroupedKernels.at[I];
    if constexpr (k.family == GroupedFamily::broadcast) {
      return broadcast;
    } else {
      return grouped<k.group_in, k.group_out>;
    }
  }
};

}  // namespace

GroupedGradientFunction grouped_gradient_function(int kernel) {
  return KernelTable<GroupedGradientFunction, Function>::at[kernel];
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
