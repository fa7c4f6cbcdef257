// The products of a few of one group's tiles, whose inputs lie in the L1 cache.

#include "cpu/simd/winograd_group.h"

#include "cpu/simd/grouped.h"
#include "cpu/simd/register_block.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

using Block = void (*)(int64_t k, const float* a, const float* b, float* c);

/// The distance between tiles is a constant, so that all rows are addressed from one register.
template <int R, int V, int64_t Pitch>
void block(int64_t k, const float* a, const float* b, float* c) {
  Vec sums[R][V];
  clear_sums(sums);
  for (int64_t p = 0; p < k; ++p, b += V * kWidth) add_products(sums, a + p, Pitch, b);
  store_sums(sums, c, Pitch, false);
}

/// Of K groups' inputs, woven.
template <int R, int K>
void woven_block(int64_t k, const float* a, const float* b, float* c) {
  Vec sums[R][1];
  clear_sums(sums);
  for (int64_t p = 0; p < k; ++p, a += K, b += kWidth) {
    const Vec w = load(b);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) sums[r][0] += repeat<K>(a + r * kWidth) * w;
  }
  store_sums(sums, c, kWidth, false);
}

constexpr int kPitches = 3, kMostWoven = kWidth / 2;

struct Blocks {
  Block table[kPitches][kMaxPanelVectors + 1][kMaxRows + 1] = {};
  Block woven[kMostWoven + 1][kMaxRows + 1] = {};
  constexpr Blocks() {
    for_each_block([&](auto rows, auto vectors) {
      constexpr int R = decltype(rows)::value, V = decltype(vectors)::value;
      table[0][V][R] = block<R, V, kWidth>;
      table[1][V][R] = block<R, V, 2 * kWidth>;
      table[2][V][R] = block<R, V, 4 * kWidth>;
      if constexpr (V == 1) add_woven<R, 2>();
    });
  }
  template <int R, int K>
  constexpr void add_woven() {
    woven[K][R] = woven_block<R, K>;
    if constexpr (2 * K <= kMostWoven) add_woven<R, 2 * K>();
  }
};
constexpr Blocks kBlocks;

const Block* blocks_of(const WinogradGroup& g) {
  if (g.woven > 1) return kBlocks.woven[g.woven];
  return kBlocks.table[g.pitch == kWidth ? 0 : g.pitch == 2 * kWidth ? 1 : 2][g.vectors];
}

}  // namespace

void winograd_group(const WinogradGroup& g) {
  const Block* table = blocks_of(g);
  const int64_t most = kRows[g.vectors], blocks = (g.tiles + most - 1) / most;
  for (int64_t product = 0; product < g.products; ++product) {
    int64_t tile = 0;
    for (int64_t left = blocks; left > 0; --left) {
      const int64_t rows = (g.tiles - tile + left - 1) / left;
      table[rows](g.channels, g.in + product * g.in_stride + tile * g.pitch,
                  g.weights + product * g.weight_stride, g.out + product * g.out_stride + tile * g.pitch);
      tile += rows;
    }
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
