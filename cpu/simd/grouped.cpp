// Grouped convolution of staged rows. A vector of outputs is held for several sets at a time, so that a
// weight is loaded once for all of them; which lane reads which input is a constant of the shuffles.

#include "cpu/simd/grouped.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

/// Three neighbouring column taps: every picked vector meets up to three outputs.
template <class L, int P>
SIMD_INLINE void neighbouring_taps(const float* x, int64_t step, int64_t group_in, const float* weights,
                                   Vec* sums) {
#pragma GCC unroll 1
  for (int64_t c = 0; c < group_in; ++c) {
    Vec w[3];
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) w[k] = load(weights + (k * group_in + c) * kWidth);
#pragma GCC unroll 16
    for (int t = 0; t < P + 2; ++t) {
      const Vec v = L::pick(x + t * step + c);
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) {
        if (t >= k && t - k < P) sums[t - k] += v * w[k];
      }
    }
  }
}

template <class L, int P>
SIMD_INLINE void one_tap(const float* x, int64_t step, int64_t group_in, const float* weights, Vec* sums) {
#pragma GCC unroll 1
  for (int64_t c = 0; c < group_in; ++c) {
    const Vec w = load(weights + c * kWidth);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) sums[p] += w * L::pick(x + p * step + c);
  }
}

template <class L, int P, int Rank>
SIMD_INLINE void block(const GroupedRows& r, int64_t v, int64_t group_in, int64_t set) {
  Vec sums[P];
  const Vec start = r.bias ? load(r.bias + v * kWidth) : Vec{};
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) sums[p] = start;
  const int64_t in = r.vector[v].in + set * r.in_step;
  const int64_t rows = Rank == 1 ? 1 : r.depth_taps * r.row_taps;
  const int64_t cols = Rank == 0 ? 1 : r.col_taps;
  const int64_t per_tap = group_in * kWidth;
  const float* weights = r.weights + v * rows * cols * per_tap;
  for (int64_t row = 0; row < rows; ++row, weights += cols * per_tap) {
    const float* x = r.rows[row];
    if (x == nullptr) continue;
    x += in;
    if (Rank != 0 && r.neighbours && cols == 3) {
      neighbouring_taps<L, P>(x, r.in_step, group_in, weights, sums);
    } else {
      for (int64_t k = 0; k < cols; ++k) {
        one_tap<L, P>(x + r.col_offsets[k], r.in_step, group_in, weights + k * per_tap, sums);
      }
    }
  }
  const int64_t out = r.vector[v].out + set * r.out_step;
  finish<P>(r, 0, out, sums);
}

template <class L, int Rank, int Large>
SIMD_INLINE void vector_of_outputs(const GroupedRows& r, int64_t v, int64_t group_in) {
  cover<Large>(r.sets, [&](auto count, int64_t set) __attribute__((always_inline)) {
    block<L, decltype(count)::value, Rank>(r, v, group_in, set);
  });
}

/// Rank 0: one tap.
template <int Rank, int C, int O>
void grouped(const GroupedRows& r) {
  for (int64_t v = 0; v < r.vectors; ++v) {
    with_phase<C, O, 0>(r.vector[v].out % O, [&](auto lanes) __attribute__((always_inline)) {
      vector_of_outputs<decltype(lanes), Rank, 8>(r, v, C);
    });
  }
}

template <int Rank>
void broadcast(const GroupedRows& r) {
  for (int64_t v = 0; v < r.vectors; ++v)
    vector_of_outputs<OneGroup, Rank, SIMD_REGISTERS == 32 ? 14 : 8>(r, v, r.group_in);
}

template <size_t I>
constexpr GroupedFunction function() {
  constexpr GroupedKernel k = kGroupedKernels.at[I];
  // Depth taps are more rows; of one row there is one.
  constexpr int kRank = 2;
  if constexpr (k.family == GroupedFamily::broadcast) {
    return broadcast<kRank>;
  } else if constexpr (k.family == GroupedFamily::pointwise) {
    return grouped<0, k.group_in, k.group_out>;
  } else if constexpr (k.family == GroupedFamily::depthwise && k.taps[2] > 1) {
    return grouped_depthwise<k.taps[1], k.taps[2]>;
  } else {
    return grouped<kRank, k.group_in, k.group_out>;
  }
}

template <class Indices>
struct Table;
template <size_t... I>
struct Table<std::index_sequence<I...>> {
  static constexpr GroupedFunction at[] = {function<I>()...};
};

}  // namespace

void finish(const GroupedRows& r, int row, int64_t at, const float* sums, int n) {
  for (int i = 0; i < n; ++i, at += r.out_step) {
    if (at >= r.out_floats) return;
    const int64_t to = row * r.row_step + at;
    store_lanes<Float32>(load(sums + i * kWidth), r.activation, nullptr,
                         r.residual ? r.residual + to : nullptr, r.out + to, r.out_floats - at);
  }
}

GroupedFunction grouped_function(int kernel) {
  return Table<std::make_index_sequence<GroupedKernels::kCount>>::at[kernel];
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
