#pragma once

// Grouped convolution of staged rows. A vector of outputs is held for several sets at a time, so that a
// weight is loaded once for all of them; which lane reads which input is a constant of the shuffles. M adds
// products to sums, and stores a vector of sums that needs more than that.

#include "cpu/simd/grouped.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

/// n vectors of sums, `at` floats from the start of the output row and `step` apart, through the epilogue.
template <class M>
__attribute__((noinline)) void finish(const GroupedRows& r, int64_t at, int64_t step, const float* sums,
                                      int n) {
  for (int i = 0; i < n; ++i, at += step) {
    if (at >= r.out_floats) return;
    M::store(r, at, load(sums + i * kWidth));
  }
}

template <class M, int P>
SIMD_INLINE void finish(const GroupedRows& r, int64_t at, int64_t step, const Vec* sums) {
  const bool plain = r.activation == Activation::none && r.residual == nullptr;
  if (plain && at + (P - 1) * step + kWidth <= r.out_floats) {
    float* out = r.out + at;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) store(out + p * step, sums[p]);
    return;
  }
  float copy[P * kWidth];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) store(copy + p * kWidth, sums[p]);
  finish<M>(r, at, step, copy, P);
}

/// Three column taps a step apart: every picked vector meets up to three outputs.
template <class M, class L, int P>
SIMD_INLINE void neighbouring_taps(const float* x, int64_t step, int64_t group_in, const float* weights,
                                   Vec* sums) {
#pragma GCC unroll 8
  for (int64_t c = 0; c < group_in; ++c) {
    const typename L::Input input(c);
    Vec w[3];
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) w[k] = load(weights + (k * group_in + c) * kWidth);
    const float* at = x;
#pragma GCC unroll 16
    for (int t = 0; t < P + 2; ++t, at = next(at, step)) {
      const Vec v = input(at);
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) {
        if (t >= k && t - k < P) M::add(sums[t - k], v, w[k]);
      }
    }
  }
}

template <class M, class L, int P>
SIMD_INLINE void one_tap(const float* x, int64_t step, int64_t group_in, const float* weights, Vec* sums) {
#pragma GCC unroll 8
  for (int64_t c = 0; c < group_in; ++c) {
    const typename L::Input input(c);
    const Vec w = load(weights + c * kWidth);
    const float* at = x;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p, at = next(at, step)) M::add(sums[p], w, input(at));
  }
}

/// P sets, `hop` sets from one to the next. Rank 0 has one tap; frames are more rows.
template <class M, class L, int P, int Rank>
SIMD_INLINE void block(const GroupedRows& r, int64_t v, int64_t group_in, int64_t set, int64_t hop) {
  Vec sums[P];
  const Vec start = r.bias ? load(r.bias + v * kWidth) : Vec{};
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) sums[p] = start;
  const int64_t in = r.vector[v].in + set * r.in_step, step = hop * r.in_step;
  const int64_t rows = Rank == 0 ? 1 : r.depth_taps * r.row_taps;
  const int64_t cols = Rank == 0 ? 1 : r.col_taps;
  const int64_t per_tap = group_in * kWidth;
  const float* weights = r.weights + v * rows * cols * per_tap;
  for (int64_t row = 0; row < rows; ++row, weights += cols * per_tap) {
    const float* x = r.rows[row];
    if (x == nullptr) continue;
    x += in;
    if (Rank != 0 && cols == 3 && r.spacing > 0) {
      neighbouring_taps<M, L, P>(x, step, group_in, weights, sums);
    } else {
      for (int64_t k = 0; k < cols; ++k) {
        one_tap<M, L, P>(x + r.col_offsets[k], step, group_in, weights + k * per_tap, sums);
      }
    }
  }
  L::template order<P>(sums);
  finish<M, P>(r, r.vector[v].out + set * r.out_step, hop * r.out_step, sums);
}

/// Of dilated taps, sets as far apart as they are make a block, so that they are neighbours in it.
template <class M, class L, int Rank, int Large>
SIMD_INLINE void vector_of_outputs(const GroupedRows& r, int64_t v, int64_t group_in, int64_t done = 0) {
  const int64_t hop = Rank != 0 && r.spacing > 0 && r.col_taps == 3 ? r.spacing : 1;
  for (int64_t first = done; first < (done + hop < r.sets ? done + hop : r.sets); ++first) {
    cover<Large>((r.sets - first + hop - 1) / hop, [&](auto count, int64_t i) __attribute__((always_inline)) {
      block<M, L, decltype(count)::value, Rank>(r, v, group_in, first + i * hop, hop);
    });
  }
}

/// One tap of few inputs, whose weights are held for the whole row. What is left to do of it begins with the
/// set returned.
template <class M, class L, int C>
SIMD_INLINE int64_t whole_blocks(const GroupedRows& r, int64_t v) {
  constexpr int P = 8;
  if (r.rows[0] == nullptr || r.activation != Activation::none || r.residual != nullptr) return 0;
  Vec w[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) w[c] = load(r.weights + (v * C + c) * kWidth);
  const Vec start = r.bias ? load(r.bias + v * kWidth) : Vec{};
  const int64_t in_step = r.in_step, out_step = r.out_step;
  const int64_t whole = (r.out_floats - r.vector[v].out - kWidth + out_step) / out_step;
  const int64_t sets = (whole < r.sets ? whole : r.sets) / P * P;
  const float* x = r.rows[0] + r.vector[v].in + r.col_offsets[0];
  float* out = r.out + r.vector[v].out;
  for (int64_t set = 0; set < sets; set += P) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p, x = next(x, in_step), out += out_step) {
      Vec sum = start;
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) M::add(sum, w[c], typename L::Input(c)(x));
      store(out, sum);
    }
  }
  return sets;
}

/// Apart from `grouped`, whose loops it would cost registers.
template <class M, int Rank, int C, int O>
__attribute__((noinline)) void woven(const GroupedRows& r) {
  constexpr int kLarge = SIMD_REGISTERS == 32 ? 14 : 8;
  for (int64_t v = 0; v < r.vectors; ++v) vector_of_outputs<M, Woven<C, O>, Rank, kLarge>(r, v, C);
}

template <class M, int Rank, int C, int O>
void grouped(const GroupedRows& r) {
  if constexpr (Rank != 0 && Woven<C, O>::kPossible) {
    if (r.woven) return woven<M, Rank, C, O>(r);
  }
  for (int64_t v = 0; v < r.vectors; ++v) {
    with_phase<C, O, 0>(r.vector[v].out % O, [&](auto lanes) __attribute__((always_inline)) {
      using L = typename ForwardLanes<decltype(lanes)>::Type;
      int64_t done = 0;
      if constexpr (Rank == 0 && C <= 8) done = whole_blocks<M, L, C>(r, v);
      vector_of_outputs<M, L, Rank, 8>(r, v, C, done);
    });
  }
}

/// Two vectors of one group: an input serves both.
template <class M, int P>
SIMD_INLINE void pair(const GroupedRows& r, int64_t v, int64_t set) {
  Vec sums[2][P];
  const Vec zero{};
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    sums[0][p] = r.bias ? load(r.bias + v * kWidth) : zero;
    sums[1][p] = r.bias ? load(r.bias + (v + 1) * kWidth) : zero;
  }
  const int64_t in = r.vector[v].in + set * r.in_step;
  const int64_t rows = r.depth_taps * r.row_taps, per_vector = rows * r.col_taps * r.group_in * kWidth;
  const float* weights = r.weights + v * per_vector;
  for (int64_t row = 0; row < rows; ++row) {
    const float* x = r.rows[row];
    if (x == nullptr) {
      weights += r.col_taps * r.group_in * kWidth;
      continue;
    }
    for (int64_t k = 0; k < r.col_taps; ++k) {
      const float* at = x + in + r.col_offsets[k];
#pragma GCC unroll 1
      for (int64_t c = 0; c < r.group_in; ++c, weights += kWidth) {
        const Vec w0 = load(weights), w1 = load(weights + per_vector);
        const float* input = at + c;
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p, input = next(input, r.in_step)) {
          const Vec v = splat(*input);
          M::add(sums[0][p], v, w0);
          M::add(sums[1][p], v, w1);
        }
      }
    }
  }
  finish<M, P>(r, r.vector[v].out + set * r.out_step, r.out_step, sums[0]);
  finish<M, P>(r, r.vector[v + 1].out + set * r.out_step, r.out_step, sums[1]);
}

template <class M>
void broadcast(const GroupedRows& r) {
  constexpr int kLarge = SIMD_REGISTERS == 32 ? 14 : 8, kPaired = SIMD_REGISTERS == 32 ? 7 : 5;
  for (int64_t v = 0; v < r.vectors;) {
    if (v + 1 < r.vectors && r.vector[v].in == r.vector[v + 1].in) {
      cover<kPaired>(r.sets, [&](auto count, int64_t set) __attribute__((always_inline)) {
        pair<M, decltype(count)::value>(r, v, set);
      });
      v += 2;
    } else {
      vector_of_outputs<M, OneGroup, 1, kLarge>(r, v, r.group_in);
      ++v;
    }
  }
}

}  // namespace
}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
