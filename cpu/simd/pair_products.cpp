// AVX512_BF16: products of bf16 operands, a pair of them in each lane, laid out as for AMX's tiles.

#include "cpu/simd/fetch.h"
#include "cpu/simd/simd.h"

// After simd.h, which defines SIMD_NAMESPACE.
#include "cpu/simd/tiles.h"

namespace mlx_conv3d::cpu {
namespace SIMD_NAMESPACE {
namespace {

constexpr int64_t kSteps = 8;  ///< whose weights stay in the L1 cache while all rows pass

/// Cache lines of what is multiplied next, some of which each block of rows asks for.
struct Ahead {
  const char* line;
  int64_t lines;
};

template <int R, int N>
void block(const TileProduct& t, const uint16_t* a, int64_t first, int64_t count, float* c, bool accumulate,
           Ahead ahead) {
  Vec sums[R][N];
#pragma GCC unroll 24
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      sums[r][n] = accumulate ? load(c + r * t.c_stride + n * kTileSide) : Vec{};
    }
  }
  const int64_t stride = t.a_stride, lines = (ahead.lines + count - 1) / count;
  for (int64_t s = first; s < first + count; ++s) {
    for (int64_t i = 0; i < lines && ahead.lines > 0; ++i, --ahead.lines, ahead.line += 64) {
      fetch_to_read(ahead.line);
    }
    const uint16_t *inputs = a + t.steps[s].a, *weights = t.b + t.steps[s].b * N * kTileItems;
#pragma GCC unroll 2
    for (int pair = 0; pair < t.steps[s].pairs; ++pair) {
      __m512bh w[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        w[n] = (__m512bh)_mm512_loadu_si512(weights + n * kTileItems + pair * kTileDepth);
      }
#pragma GCC unroll 24
      for (int r = 0; r < R; ++r) {
        int32_t both;
        memcpy(&both, inputs + r * stride + 2 * pair, sizeof(both));
        const auto x = (__m512bh)_mm512_set1_epi32(both);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) sums[r][n] = (Vec)_mm512_dpbf16_ps((__m512)sums[r][n], x, w[n]);
      }
    }
  }
#pragma GCC unroll 24
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) store(c + r * t.c_stride + n * kTileSide, sums[r][n]);
  }
}

using Block = void (*)(const TileProduct&, const uint16_t*, int64_t, int64_t, float*, bool, Ahead);
/// Two columns of sums: 24 registers, two for weights and the rest for inputs; as many for one.
template <int N>
constexpr int kMostRows = 24 / N;
template <int N, class Rows = std::make_integer_sequence<int, kMostRows<N>>>
struct Blocks;
template <int N, int... R>
struct Blocks<N, std::integer_sequence<int, R...>> {
  static constexpr Block of_rows[] = {nullptr, block<R + 1, N>...};
};

/// Shorter runs are taken with what lies between them: so few sums would wait for each other.
constexpr int64_t kShortRun = 4;

template <int N>
void multiply_rows(const TileProduct& t) {
  const bool whole = t.run < kShortRun || t.run == t.run_step;
  const int64_t run = whole ? t.rows : t.run, run_step = whole ? t.rows : t.run_step;
  const int64_t runs = (t.rows + run_step - 1) / run_step, blocks = (run + kMostRows<N> - 1) / kMostRows<N>;
  const int64_t pieces = (t.step_count + kSteps - 1) / kSteps;
  constexpr int64_t kStepLines = N * kTileItems / 32;
  const int64_t lines = t.next ? t.step_count * kStepLines : 0, all = pieces * runs * blocks;
  int64_t done = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t first = t.step_count * piece / pieces, last = t.step_count * (piece + 1) / pieces;
    for (int64_t i = 0; i < runs * blocks; ++i, ++done) {
      const int64_t begin = run * (i % blocks) / blocks, rows = run * (i % blocks + 1) / blocks - begin;
      const int64_t row = i / blocks * run_step + begin, line = lines * done / all;
      const Ahead ahead{reinterpret_cast<const char*>(t.next) + line * 64, lines * (done + 1) / all - line};
      Blocks<N>::of_rows[rows](t, t.a + row * t.a_stride, first, last - first, t.c + row * t.c_stride,
                               t.accumulate || piece > 0, ahead);
    }
  }
}

/// Of one part, and bf16: see TileKernels::splits.
void multiply_pairs(const TileProduct& product) {
  product.tiles == 1 ? multiply_rows<1>(product) : multiply_rows<2>(product);
}

}  // namespace
}  // namespace SIMD_NAMESPACE

extern const TileKernels tile_kernels_avx512_bf16;
const TileKernels tile_kernels_avx512_bf16 = {
    false,   false,  SIMD_NAMESPACE::split, SIMD_NAMESPACE::pack, SIMD_NAMESPACE::multiply_pairs, nullptr,
    nullptr, nullptr};

}  // namespace mlx_conv3d::cpu
