// AVX512_BF16: products of bf16 operands, a pair of them in each lane, laid out as for AMX's tiles.

#include "cpu/simd/fetch.h"
#include "cpu/simd/simd.h"

// After simd.h, which defines SIMD_NAMESPACE.
#include "cpu/simd/tiles.h"

namespace mlx_conv3d::cpu {
namespace SIMD_NAMESPACE {
namespace {

/// Cache lines of what is multiplied next, some of which each block of rows asks for.
struct Ahead {
  const char* line;
  int64_t lines;
};

/// Rows of bf16 results that are written from registers.
struct Narrow {
  uint16_t* y = nullptr;  ///< null: the sums go to c
  int64_t stride = 0;
  bool fetches = false;  ///< rows are apart, in an order that hardware does not foresee
  const float* bias = nullptr;
  uint32_t lanes = 0;  ///< a bit for each that exists
};

/// Results below 2^-126 become zeros, as sums did in the products.
template <int R, int N>
SIMD_INLINE void store_narrow(Vec (&sums)[R][N], const Narrow& to) {
#pragma GCC unroll 2
  for (int n = 0; n < N; ++n) {
    const auto lanes = static_cast<__mmask16>(to.lanes >> (n * kTileSide));
    const auto bias = to.bias ? (Vec)_mm512_maskz_loadu_ps(lanes, to.bias + n * kTileSide) : Vec{};
#pragma GCC unroll 24
    for (int r = 0; r < R; ++r) {
      if (to.bias) sums[r][n] += bias;
      const auto results = (__m256i)_mm512_cvtneps_pbh((__m512)sums[r][n]);
      uint16_t* y = to.y + r * to.stride + n * kTileSide;
      if (lanes == 0xffff) {
        _mm256_storeu_si256((__m256i*)y, results);
      } else {
        _mm256_mask_storeu_epi16(y, lanes, results);
      }
    }
  }
}

template <int R, int N>
void block(const TileProduct& t, const uint16_t* a, float* c, Ahead ahead, Narrow narrow) {
  Vec sums[R][N];
#pragma GCC unroll 24
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      sums[r][n] = t.accumulate ? load(c + r * t.c_stride + n * kTileSide) : Vec{};
    }
  }
  if (narrow.fetches) {
    for (int r = 0; r < R; ++r) fetch_to_write(reinterpret_cast<const char*>(narrow.y + r * narrow.stride));
  }
  const int64_t stride = t.a_stride, lines = (ahead.lines + t.step_count - 1) / t.step_count;
  for (int64_t s = 0; s < t.step_count; ++s) {
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
  if (narrow.y != nullptr) return store_narrow<R, N>(sums, narrow);
#pragma GCC unroll 24
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) store(c + r * t.c_stride + n * kTileSide, sums[r][n]);
  }
}

using Block = void (*)(const TileProduct&, const uint16_t*, float*, Ahead, Narrow);
/// Two columns of sums: 24 registers, two for weights and the rest for inputs; as many for one.
template <int N>
constexpr int kMostRows = 24 / N;
template <int N, class Rows = std::make_integer_sequence<int, kMostRows<N>>>
struct Blocks;
template <int N, int... R>
struct Blocks<N, std::integer_sequence<int, R...>> {
  static constexpr Block of_rows[] = {nullptr, block<R + 1, N>...};
};

/// Sums of `rows` rows from `row` on, which mostly are still in the L1 cache, become output.
void finish(const TileProduct& t, int64_t row, int64_t rows, const float* sums) {
  const TileResults& to = *t.results;
  for (const int64_t end = row + rows; row < end;) {
    const int64_t run = row / t.run_step, first = row % t.run_step;
    const int64_t next = run * t.run_step + t.run_step < end ? run * t.run_step + t.run_step : end;
    const int64_t last = t.run < next - row + first ? t.run : next - row + first;
    if (first < last) {
      to.store(*to.epilogue, {last - first, to.lanes, sums, t.c_stride, to.channel,
                              to.offset + run * to.run_stride + first * to.row_stride, to.row_stride, to.y});
    }
    sums += (next - row) * t.c_stride;
    row = next;
  }
}

/// `all` things in `count` shares, the first ones of them one larger.
struct Shares {
  Shares(int64_t all, int64_t count) : each(all / count), larger(all % count) {}
  int64_t of(int64_t i) const { return each + (i < larger ? 1 : 0); }
  int64_t each, larger;
};

/// Shorter runs are taken with what lies between them, if that is no more than they are: so few sums would
/// wait for each other.
constexpr int64_t kShortRun = 4;

template <int N>
void multiply_rows(const TileProduct& t) {
  constexpr int64_t kStepLines = N * kTileItems / 32;
  const TileResults* to = t.results;
  // Rows and results without a gap are one run.
  const bool joined = t.run == t.run_step && (to == nullptr || to->run_stride == t.run * to->row_stride);
  const bool whole = joined || (t.run < kShortRun && t.run_step <= 2 * t.run);
  const int64_t run = whole ? t.rows : t.run, run_step = whole ? t.rows : t.run_step;
  const int64_t runs = (t.rows + run_step - 1) / run_step, blocks = (run + kMostRows<N> - 1) / kMostRows<N>;
  const bool narrows = to != nullptr && (joined || !whole) && to->epilogue->type == Dtype::bfloat16 &&
                       to->epilogue->activation == Activation::none && to->epilogue->residual == nullptr;
  Narrow narrow;
  if (narrows) {
    narrow.stride = to->row_stride;
    narrow.fetches = to->row_stride > N * kTileSide;
    narrow.bias = to->epilogue->bias ? to->epilogue->bias + to->channel : nullptr;
    narrow.lanes = to->lanes < 32 ? (1u << to->lanes) - 1 : ~0u;
  }
  const Shares rows_of(run, blocks), lines_of(t.next ? t.step_count * kStepLines : 0, runs * blocks);
  Ahead ahead{reinterpret_cast<const char*>(t.next), 0};
  for (int64_t r = 0; r < runs; ++r) {
    int64_t row = r * run_step;
    if (narrows) narrow.y = static_cast<uint16_t*>(to->y) + to->offset + r * to->run_stride;
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t rows = rows_of.of(i);
      // Sums that become output at once are never read again.
      float* c = t.c + (to != nullptr && !t.accumulate ? 0 : row * t.c_stride);
      ahead.lines = lines_of.of(r * blocks + i);
      Blocks<N>::of_rows[rows](t, t.a + row * t.a_stride, c, ahead, narrow);
      if (to != nullptr && !narrows) finish(t, row, rows, c);
      ahead.line += ahead.lines * 64;
      row += rows;
      if (narrows) narrow.y += rows * narrow.stride;
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
const TileKernels tile_kernels_avx512_bf16 = {false,
                                              false,
                                              SIMD_NAMESPACE::split,
                                              SIMD_NAMESPACE::look,
                                              SIMD_NAMESPACE::pack,
                                              SIMD_NAMESPACE::multiply_pairs,
                                              nullptr,
                                              nullptr,
                                              nullptr,
                                              SIMD_NAMESPACE::grouped_pairs_function};

}  // namespace mlx_conv3d::cpu
