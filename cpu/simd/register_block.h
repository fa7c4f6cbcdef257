#pragma once

// R rows of V vectors of sums that stay in registers while products are added to them.

#include "cpu/simd/gemm.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

template <int R, int V>
SIMD_INLINE void clear_sums(Vec (&sums)[R][V]) {
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = Vec{};
  }
}

/// One product of each sum: a[r * a_step] times the row b.
template <int R, int V>
SIMD_INLINE void add_products(Vec (&sums)[R][V], const float* a, int64_t a_step, const float* b) {
  Vec bs[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) bs[v] = load(b + v * kWidth);
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
    const float x = a[r * a_step];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] += x * bs[v];
  }
}

template <int R, int V>
SIMD_INLINE void store_sums(const Vec (&sums)[R][V], float* c, int64_t ldc, bool accumulate) {
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      float* to = c + r * ldc + v * kWidth;
      store(to, accumulate ? load(to) + sums[r][v] : sums[r][v]);
    }
  }
}

/// Calls f(rows, vectors), both constants, for every block that registers hold.
template <class F>
constexpr void for_each_block(F&& f) {
  unroll<1, kPanelVectors + 1>([&](auto vectors) {
    unroll<1, kRows[decltype(vectors)::value] + 1>([&](auto rows) { f(rows, vectors); });
  });
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
