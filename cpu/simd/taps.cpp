// Matrix products whose left operand is read where it lies, tap by tap: the sums of a row block stay in
// registers over all taps, however few terms each has.

#include "cpu/simd/taps.h"

#include "cpu/simd/gemm.h"
#include "cpu/simd/register_block.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <int R, int V>
void block(int64_t k, Taps a, int64_t first, int64_t lda, const float* b, float* c, int64_t ldc,
           bool accumulate) {
  Vec sums[R][V];
  clear_sums(sums);
  for (int64_t s = 0; s < a.count; ++s) {
    const float* from = a.starts[s] + first;
    for (int64_t p = 0; p < k; ++p, b += V * kWidth) {
      add_products(sums, from + p, lda, b);
    }
  }
  store_sums(sums, c, ldc, accumulate);
}

using Block = void (*)(int64_t, Taps, int64_t, int64_t, const float*, float*, int64_t, bool);

struct Blocks {
  Block table[kMaxPanelVectors + 1][kMaxRows + 1] = {};
  constexpr Blocks() {
    for_each_block([&](auto rows, auto vectors) {
      constexpr int R = decltype(rows)::value, V = decltype(vectors)::value;
      table[V][R] = block<R, V>;
    });
  }
};
constexpr Blocks kBlocks;

template <int Step, size_t... Lane>
SIMD_INLINE Vec swapped(Vec v, std::index_sequence<Lane...>) {
  return __builtin_shufflevector(v, v, (Lane ^ Step)...);
}
template <int Step = kWidth / 2>
SIMD_INLINE float sum_of_lanes(Vec v) {
  if constexpr (Step == 0) {
    return v[0];
  } else {
    return sum_of_lanes<Step / 2>(v + swapped<Step>(v, std::make_index_sequence<kWidth>()));
  }
}

template <int R, int O>
void narrow_block(int64_t k, Taps a, int64_t first, int64_t lda, const float* b, int64_t ldb, float* c,
                  int64_t ldc, bool accumulate) {
  Vec sums[R][O];
  for (int r = 0; r < R; ++r) {
    for (int o = 0; o < O; ++o) sums[r][o] = Vec{};
  }
  const auto add = [&](const float* from, const float* weights, auto&& read) __attribute__((always_inline)) {
    Vec bs[O];
#pragma GCC unroll 4
    for (int o = 0; o < O; ++o) bs[o] = read(weights + o * ldb);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      Vec x = read(from + r * lda);
      hold(x);
#pragma GCC unroll 4
      for (int o = 0; o < O; ++o) sums[r][o] += x * bs[o];
    }
  };
  const int64_t whole = k / kWidth * kWidth, rest = k - whole;
  for (int64_t s = 0; s < a.count; ++s, b += k) {
    const float* from = a.starts[s] + first;
    for (int64_t p = 0; p < whole; p += kWidth) {
      add(from + p, b + p, [](const float* at) __attribute__((always_inline)) { return load(at); });
    }
    if (rest > 0) {
      add(from + whole, b + whole,
          [rest](const float* at) __attribute__((always_inline)) { return load_part<Float32>(at, rest); });
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int o = 0; o < O; ++o) {
      float& to = c[r * ldc + o];
      to = (accumulate ? to : 0.0f) + sum_of_lanes(sums[r][o]);
    }
  }
}

template <int O>
void narrow_rows(int64_t rows, int64_t k, Taps a, int64_t lda, const float* b, int64_t ldb, float* c,
                 int64_t ldc, bool accumulate) {
  // At least eight sums hide the multiply-adds' latency.
  constexpr int R = SIMD_REGISTERS == 32 ? (O <= 2 ? 8 : 9 - O) : (O == 1 ? 8 : O == 4 ? 2 : 6 - O);
  int64_t r = 0;
  for (; r + R <= rows; r += R) narrow_block<R, O>(k, a, r * lda, lda, b, ldb, c + r * ldc, ldc, accumulate);
  for (; r < rows; ++r) narrow_block<1, O>(k, a, r * lda, lda, b, ldb, c + r * ldc, ldc, accumulate);
}

}  // namespace

void gemm_taps(int64_t rows, int vectors, int64_t k, Taps a, int64_t lda, const float* b, float* c,
               int64_t ldc, bool accumulate) {
  const Block* table = kBlocks.table[vectors];
  const int64_t most = kRows[vectors];
  int64_t done = 0;
  for (int64_t blocks = (rows + most - 1) / most; blocks > 0; --blocks) {
    const int64_t r = (rows - done + blocks - 1) / blocks;
    table[r](k, a, done * lda, lda, b, c + done * ldc, ldc, accumulate);
    done += r;
  }
}

void gemm_narrow(int64_t rows, int outputs, int64_t k, Taps a, int64_t lda, const float* b, int64_t ldb,
                 float* c, int64_t ldc, bool accumulate) {
  switch (outputs) {
    case 1:
      return narrow_rows<1>(rows, k, a, lda, b, ldb, c, ldc, accumulate);
    case 2:
      return narrow_rows<2>(rows, k, a, lda, b, ldb, c, ldc, accumulate);
    case 3:
      return narrow_rows<3>(rows, k, a, lda, b, ldb, c, ldc, accumulate);
    case 4:
      return narrow_rows<4>(rows, k, a, lda, b, ldb, c, ldc, accumulate);
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
