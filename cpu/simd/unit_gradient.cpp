// dL/dw of a group: sums of some products stay in registers over all positions of a band, so that a vector of
// dL/dy serves many inputs, and of two vectors each input serves both.

#include "cpu/simd/unit_gradient.h"

#include "cpu/simd/grouped.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

constexpr int kSums = SIMD_REGISTERS == 32 ? 24 : 12;

/// P products with V vectors of outputs, whose inputs are `x` floats from a position's first one.
template <int K, int V, int P>
__attribute__((noinline)) void block(const UnitGradientRow& r, int64_t x, int64_t lane, float* to) {
  Vec sums[P][V];
#pragma GCC unroll 24
  for (int i = 0; i < P; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sums[i][v] = Vec{};
  }
  const float* dy = r.dy + lane;
  for (int64_t row = 0; row < r.out_rows; ++row) {
    if (r.rows[row] == nullptr) {
      dy += r.positions * r.lanes;
      continue;
    }
    const float* at = r.rows[row] + x;
    for (int64_t position = 0; position < r.positions; ++position, at += r.step, dy += r.lanes) {
      Vec g[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) g[v] = load(dy + v * kWidth);
#pragma GCC unroll 24
      for (int i = 0; i < P; ++i) {
        const Vec input = repeat<K>(at + i * K);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[i][v] += input * g[v];
      }
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < P; ++i, to += r.lanes) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      store(to + v * kWidth, r.accumulate ? load(to + v * kWidth) + sums[i][v] : sums[i][v]);
    }
  }
}

/// As many blocks of P products as there are; returns the product after them.
template <int K, int V, int P>
SIMD_INLINE int64_t blocks(const UnitGradientRow& r, const UnitGradientRun& run, int64_t lane, int64_t i) {
  for (; i + P <= r.length; i += P) {
    block<K, V, P>(r, run.x + i * K, lane, r.sums + (run.product + i) * r.lanes + lane);
  }
  return i;
}

template <int K, int V>
SIMD_INLINE void vectors(const UnitGradientRow& r, int64_t lane) {
  constexpr int kLarge = kSums / V;
  for (int64_t j = 0; j < r.runs; ++j) {
    int64_t i = blocks<K, V, kLarge>(r, r.run[j], lane, 0);
    if constexpr (kLarge > 16) i = blocks<K, V, 16>(r, r.run[j], lane, i);
    if constexpr (kLarge > 12) i = blocks<K, V, 12>(r, r.run[j], lane, i);
    if constexpr (kLarge > 8) i = blocks<K, V, 8>(r, r.run[j], lane, i);
    i = blocks<K, V, 4>(r, r.run[j], lane, i);
    blocks<K, V, 1>(r, r.run[j], lane, i);
  }
}

/// A whole block of sums, or `rows` of them.
template <bool Whole>
SIMD_INLINE void load_sums(const UnitGradientResults& r, const float* sums, int64_t rows, Vec* block) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i, sums += r.lanes) block[i] = Whole || i < rows ? load(sums) : Vec{};
  for (int64_t part = 1; part < r.parts; ++part) {
    sums += r.part_stride - kWidth * r.lanes;
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i, sums += r.lanes) {
      if (Whole || i < rows) block[i] += load(sums);
    }
  }
  transpose(block);
}

template <class T>
void results(const UnitGradientResults& r) {
  auto* out = static_cast<typename T::Item*>(r.dw);
  for (int64_t lane = 0; lane < r.lanes; lane += kWidth) {
    Vec block[kWidth];
    if (r.products < kWidth) {
      load_sums<false>(r, r.sums + lane, r.products, block);
      for (int l = 0; l < kWidth; ++l) store_part<T>(out + r.rows[lane + l], block[l], r.products);
      continue;
    }
    for (int64_t next = 0; next < r.products; next += kWidth) {
      // The last block begins within the one before it.
      const int64_t first = next + kWidth <= r.products ? next : r.products - kWidth;
      load_sums<true>(r, r.sums + first * r.lanes + lane, kWidth, block);
#pragma GCC unroll 16
      for (int l = 0; l < kWidth; ++l) T::store(out + r.rows[lane + l] + first, block[l]);
    }
  }
}

}  // namespace

void unit_gradient(const UnitGradientRow& r) {
  if constexpr (kWidth >= 8) {
    if (r.woven == 2) return vectors<2, 1>(r, 0);
  }
  if constexpr (kWidth >= 16) {
    if (r.woven == 4) return vectors<4, 1>(r, 0);
  }
  int64_t lane = 0;
  for (; lane + 2 * kWidth <= r.lanes; lane += 2 * kWidth) vectors<1, 2>(r, lane);
  if (lane < r.lanes) vectors<1, 1>(r, lane);
}

void unit_gradient_results(Dtype type, const UnitGradientResults& r) { SIMD_BY_TYPE(type, results, r) }

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
