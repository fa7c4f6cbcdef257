// Register-blocked matrix product: the row block and the panel's vectors stay in registers over all of k.

#include "cpu/simd/gemm.h"

#include "cpu/simd/register_block.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

/// What a block fetches meanwhile, a little with every step of k: many fetches at once would stall it.
struct Prefetch {
  const char* at;
  int64_t step;  ///< bytes
};

struct Matrices {
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
};

constexpr int64_t kFewProducts = 64;

/// Where a block's sums go, or what they are added to: it comes while products are taken.
template <int R, int V>
SIMD_INLINE void fetch_sums(const float* c, int64_t ldc) {
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) __builtin_prefetch(c + r * ldc + v * kWidth, 1, 3);
  }
}

/// `count` blocks of R rows, one below the other. Short sums would be dominated by a call for each.
template <int R, int V, bool Transposed>
void block(int64_t count, int64_t k, const Matrices& of, bool accumulate, const Segments& segments,
           Prefetch next) {
  const int64_t a_step = Transposed ? 1 : of.lda;
  for (int64_t n = 0; n < count; ++n) {
    const float *a = of.a + n * R * a_step, *b = of.b;
    Vec sums[R][V];
    clear_sums(sums);
    // Few products take less time than their results' way to memory.
    if (accumulate) {
      fetch_sums<R, V>(of.c + n * R * of.ldc, of.ldc);
    } else if (k <= kFewProducts && n + 1 < count) {
      fetch_sums<R, V>(of.c + (n + 1) * R * of.ldc, of.ldc);
    }
    for (int64_t s = 0; s < segments.count; ++s, a += segments.a_step, b += segments.b_step) {
      const float* row = b;
      for (int64_t p = 0; p < k; ++p, row += of.ldb, next.at += next.step) {
        __builtin_prefetch(next.at, 0, 2);
        add_products(sums, Transposed ? a + p * of.lda : a + p, a_step, row);
      }
    }
    store_sums(sums, of.c + n * R * of.ldc, of.ldc, accumulate);
  }
}

/// So few products that a vector's weights stay in registers beside the sums of R rows, and all is known at
/// compile time but where the rows lie.
constexpr int kShortProducts = 16, kShortRows = 8;

template <int K, int R>
SIMD_INLINE void short_rows(const Vec (&weights)[K], const float* a, int64_t lda, float* c, int64_t ldc) {
  Vec sums[R][1];
  clear_sums(sums);
#pragma GCC unroll 16
  for (int p = 0; p < K; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[r][0] += a[r * lda + p] * weights[p];
  }
  store_sums(sums, c, ldc, false);
}

template <int K>
void short_block(int64_t rows, const Matrices& of) {
  Vec weights[K];
#pragma GCC unroll 16
  for (int p = 0; p < K; ++p) weights[p] = load(of.b + p * of.ldb);
  const float* a = of.a;
  float* c = of.c;
  for (; rows >= kShortRows; rows -= kShortRows, a += kShortRows * of.lda, c += kShortRows * of.ldc) {
    short_rows<K, kShortRows>(weights, a, of.lda, c, of.ldc);
  }
  for (; rows > 0; --rows, a += of.lda, c += of.ldc) short_rows<K, 1>(weights, a, of.lda, c, of.ldc);
}

struct ShortBlocks {
  void (*table[kShortProducts + 1])(int64_t, const Matrices&) = {};
  constexpr ShortBlocks() {
    unroll<1, kShortProducts + 1>([&](auto k) {
      constexpr int K = decltype(k)::value;
      table[K] = short_block<K>;
    });
  }
};
constexpr ShortBlocks kShortBlocks;

using Block = void (*)(int64_t, int64_t, const Matrices&, bool, const Segments&, Prefetch);

struct Blocks {
  Block table[kMaxPanelVectors + 1][2][kMaxRows + 1] = {};
  constexpr Blocks() {
    for_each_block([&](auto rows, auto vectors) {
      constexpr int R = decltype(rows)::value, V = decltype(vectors)::value;
      table[V][0][R] = block<R, V, false>;
      table[V][1][R] = block<R, V, true>;
    });
  }
};
constexpr Blocks kBlocks;

}  // namespace

void gemm(bool transposed, int64_t rows, int vectors, int64_t k, const float* a, int64_t lda, const float* b,
          int64_t ldb, float* c, int64_t ldc, bool accumulate, Segments segments) {
  if (SIMD_REGISTERS == 32 && vectors == 1 && k > 0 && k <= kShortProducts && segments.count == 1 &&
      !transposed && !accumulate) {
    kShortBlocks.table[k](rows, {a, lda, b, ldb, c, ldc});
    return;
  }
  const Block* table = kBlocks.table[vectors][transposed ? 1 : 0];
  const int64_t most = kRows[vectors];
  const int64_t a_step = transposed ? 1 : lda;
  // Even row blocks: 9 rows are 5 + 4, not 8 + 1, since a short block wastes the multipliers' latency.
  int64_t blocks = (rows + most - 1) / most;
  // What follows b is mostly the next product's: each row block fetches a part of it.
  constexpr int64_t kLine = 64;
  Prefetch next{reinterpret_cast<const char*>(b), 0};
  if (segments.next != nullptr && blocks > 0) {
    next = {reinterpret_cast<const char*>(segments.next),
            rows / blocks * static_cast<int64_t>(sizeof(float))};
  } else if (!transposed && blocks > 0) {
    const int64_t panel = vectors * kWidth * static_cast<int64_t>(sizeof(float));
    next.at += k * panel;
    next.step = panel / blocks < kLine ? panel / blocks : kLine;
  }
  while (blocks > 0) {
    const int64_t r = (rows + blocks - 1) / blocks, shorter = blocks * r - rows, count = blocks - shorter;
    table[r](count, k, {a, lda, b, ldb, c, ldc}, accumulate, segments, next);
    next.at += count * segments.count * k * next.step;
    a += count * r * a_step;
    c += count * r * ldc;
    rows -= count * r;
    blocks = shorter;
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
