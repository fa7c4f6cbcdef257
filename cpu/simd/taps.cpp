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

/// How many rows of so many outputs registers hold; at least eight sums hide the multiply-adds' latency.
constexpr int narrow_rows(int outputs) {
  if (SIMD_REGISTERS == 32) return outputs <= 2 ? 8 : 9 - outputs;
  return outputs == 1 ? 8 : outputs == 4 ? 2 : 6 - outputs;
}

constexpr int kNarrowBlock = 4;  ///< outputs
constexpr int kAhead = 192;      ///< floats

/// Sums of R rows and O outputs, each of them a vector: of its lanes each has a share.
template <int R, int O>
void narrow_block(int64_t k, Taps a, int64_t first, int64_t lda, const float* b, int64_t ldb, float* lanes,
                  int64_t pitch, bool accumulate) {
  Vec sums[R][O];
  clear_sums(sums);
  const auto add = [&](const float* from, const float* weights, auto&& read) __attribute__((always_inline)) {
    Vec bs[O];
#pragma GCC unroll 4
    for (int o = 0; o < O; ++o) bs[o] = read(weights + o * ldb);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float* at = from + r * lda;
      // The rows before these have been met as the later ones of other taps and blocks.
      if (r + 3 >= R) __builtin_prefetch(at + kAhead);
      Vec x = read(at);
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
  store_sums(sums, lanes, pitch, accumulate);
}

using NarrowBlock = void (*)(int64_t, Taps, int64_t, int64_t, const float*, int64_t, float*, int64_t, bool);

struct NarrowBlocks {
  NarrowBlock table[kNarrowBlock + 1][narrow_rows(1) + 1] = {};
  constexpr NarrowBlocks() {
    unroll<1, kNarrowBlock + 1>([&](auto outputs) {
      constexpr int O = decltype(outputs)::value;
      unroll<1, narrow_rows(O) + 1>([&](auto rows) { table[O][rows.value] = narrow_block<rows.value, O>; });
    });
  }
};
constexpr NarrowBlocks kNarrowBlocks;

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
                 float* lanes, bool accumulate) {
  const int most = narrow_rows(outputs < kNarrowBlock ? outputs : kNarrowBlock);
  const int64_t pitch = outputs * kWidth;
  for (int64_t r = 0; r < rows; r += most) {
    const int64_t held = rows - r < most ? rows - r : most;
    for (int o = 0; o < outputs; o += kNarrowBlock) {
      const int of = outputs - o < kNarrowBlock ? outputs - o : kNarrowBlock;
      kNarrowBlocks.table[of][held](k, a, r * lda, lda, b + o * ldb, ldb, lanes + r * pitch + o * kWidth,
                                    pitch, accumulate);
    }
  }
}

void sum_lanes(float* lanes, int64_t sums) {
  Vec rows[kWidth];
  for (int64_t i = 0; i < sums; i += kWidth) {
    for (int r = 0; r < kWidth; ++r) rows[r] = i + r < sums ? load(lanes + (i + r) * kWidth) : Vec{};
    transpose(rows);
    for (int r = 1; r < kWidth; ++r) rows[0] += rows[r];
    store_part<Float32>(lanes + i, rows[0], sums - i < kWidth ? sums - i : kWidth);
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
