// Register-blocked matrix product: the row block and the panel's vectors stay in registers over all of k.

#include "cpu/simd/gemm.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <int R, int V, bool Transposed>
void block(int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
           bool accumulate, const Segments& segments) {
  Vec sums[R][V];
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = Vec{};
  }
  for (int64_t s = 0; s < segments.count; ++s, a += segments.a_step, b += segments.b_step) {
    const float* row = b;
    for (int64_t p = 0; p < k; ++p, row += ldb) {
      Vec bs[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) bs[v] = load(row + v * kWidth);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
        const float x = Transposed ? a[p * lda + r] : a[r * lda + p];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[r][v] += x * bs[v];
      }
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      float* to = c + r * ldc + v * kWidth;
      store(to, accumulate ? load(to) + sums[r][v] : sums[r][v]);
    }
  }
}

using Block = void (*)(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t, bool,
                       const Segments&);

template <int R, int V, bool T>
struct FillTable {
  static constexpr void fill(Block* table) {
    table[R] = block<R, V, T>;
    FillTable<R - 1, V, T>::fill(table);
  }
};
template <int V, bool T>
struct FillTable<0, V, T> {
  static constexpr void fill(Block*) {}
};

struct Blocks {
  Block table[kMaxPanelVectors + 1][2][kMaxRows + 1] = {};
  constexpr Blocks() {
    FillTable<kRows[1], 1, false>::fill(table[1][0]);
    FillTable<kRows[1], 1, true>::fill(table[1][1]);
    FillTable<kRows[2], 2, false>::fill(table[2][0]);
    FillTable<kRows[2], 2, true>::fill(table[2][1]);
    if constexpr (kPanelVectors >= 3) {
      FillTable<kRows[3], 3, false>::fill(table[3][0]);
      FillTable<kRows[3], 3, true>::fill(table[3][1]);
    }
  }
};
constexpr Blocks kBlocks;

}  // namespace

void gemm(bool transposed, int64_t rows, int vectors, int64_t k, const float* a, int64_t lda, const float* b,
          int64_t ldb, float* c, int64_t ldc, bool accumulate, Segments segments) {
  const Block* table = kBlocks.table[vectors][transposed ? 1 : 0];
  const int64_t most = kRows[vectors];
  const int64_t a_step = transposed ? 1 : lda;
  // Even row blocks: 9 rows are 5 + 4, not 8 + 1, since a short block wastes the multipliers' latency.
  int64_t blocks = (rows + most - 1) / most;
  // What follows b is mostly the next product's: each row block fetches a part of it.
  constexpr int64_t kLine = 16;
  const float* next = b + k * ldb;
  const int64_t ahead = transposed || blocks == 0 ? 0 : (k * vectors * kWidth / kLine + blocks - 1) / blocks;
  for (; blocks > 0; --blocks) {
    for (int64_t line = 0; line < ahead; ++line, next += kLine) __builtin_prefetch(next, 0, 2);
    const int64_t r = (rows + blocks - 1) / blocks;
    table[r](k, a, lda, b, ldb, c, ldc, accumulate, segments);
    a += r * a_step;
    c += r * ldc;
    rows -= r;
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
