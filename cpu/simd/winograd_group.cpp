// The products of a few of one group's tiles, one frequency along the height after the other: what is at hand
// between the transforms along the width stays in the L1 cache.

#include "cpu/simd/winograd_group.h"

#include "cpu/simd/fetch.h"
#include "cpu/simd/register_block.h"
#include "cpu/simd/winograd_axis.h"

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

constexpr int kPitches = 3;

struct Blocks {
  Block table[kPitches][kMaxPanelVectors + 1][kMaxRows + 1] = {};
  constexpr Blocks() {
    for_each_block([&](auto rows, auto vectors) {
      constexpr int R = decltype(rows)::value, V = decltype(vectors)::value;
      table[0][V][R] = block<R, V, kWidth>;
      table[1][V][R] = block<R, V, 2 * kWidth>;
      table[2][V][R] = block<R, V, 4 * kWidth>;
    });
  }
};
constexpr Blocks kBlocks;

const Block* blocks_of(const WinogradGroup& g, int vectors) {
  return kBlocks.table[g.pitch == kWidth ? 0 : g.pitch == 2 * kWidth ? 1 : 2][vectors];
}

/// Calls f(strip's columns, tiles before it, tiles).
template <class F>
SIMD_INLINE int64_t for_each_strip(const WinogradGroup& g, float* columns, F&& f) {
  int64_t tiles = 0;
  for (int64_t i = 0; i < g.strips; ++i, columns += g.strip) {
    f(columns, tiles, g.tiles[i]);
    tiles += g.tiles[i];
  }
  return tiles;
}

template <class Form>
int64_t transform_inputs(const WinogradGroup& g, float* columns) {
  constexpr int t = Form::pixels, m = Form::outputs;
  return for_each_strip(g, columns, [&](const float* from, int64_t first, int64_t tiles) {
    for (int64_t v = 0; v < g.in_vectors; ++v) {
      const int64_t pitch = g.pitch, stride = g.tile_stride;
      const float* in = from + v * kWidth;
      float* out = g.inputs + first * pitch + v * kWidth;
      for (int64_t n = tiles; n > 0; --n, in += m * pitch, out += pitch) {
        Vec d[t], frequencies[t];
#pragma GCC unroll 8
        for (int j = 0; j < t; ++j) d[j] = load(in + j * pitch);
        transform_input<Form>(d, frequencies);
#pragma GCC unroll 8
        for (int j = 0; j < t; ++j) store(out + j * stride, frequencies[j]);
      }
    }
  });
}

template <class Form>
void transform_sums(const WinogradGroup& g, int64_t vectors, float* columns) {
  constexpr int t = Form::products, m = Form::outputs;
  for_each_strip(g, columns, [&](float* to, int64_t first, int64_t tiles) {
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t pitch = g.pitch, stride = g.tile_stride;
      const float* in = g.sums + first * pitch + v * kWidth;
      float* out = to + v * kWidth;
      for (int64_t n = tiles; n > 0; --n, in += pitch, out += m * pitch) {
        Vec d[t], results[m];
#pragma GCC unroll 8
        for (int j = 0; j < t; ++j) d[j] = load(in + j * stride);
        transform_output<Form>(d, results);
#pragma GCC unroll 8
        for (int j = 0; j < m; ++j) store(out + j * pitch, results[j]);
      }
    }
  });
}

/// Part `i` of `parts` of the lines.
template <class F>
SIMD_INLINE void fetch(const LineList& list, int64_t i, int64_t parts, F&& f) {
  for (int64_t n = list.count * i / parts; n < list.count * (i + 1) / parts; ++n)
    f(list.lines[n] + list.offset);
}

/// Of `products` neighbouring frequencies from `first` on, with one panel.
void multiply(const WinogradGroup& g, int first, int products, int vectors, int64_t tiles,
              const float* weights, float* sums) {
  const Block* table = blocks_of(g, vectors);
  const int64_t most = kRows[vectors], blocks = (tiles + most - 1) / most;
  for (int64_t product = 0; product < products; ++product, weights += g.weight_stride) {
    if (sums == g.sums) {
      fetch(g.reads, first + product, products * products, fetch_to_read);
      fetch(g.writes, first + product, products * products, fetch_to_write);
    }
    int64_t tile = 0;
    for (int64_t left = blocks; left > 0; --left) {
      const int64_t rows = (tiles - tile + left - 1) / left, at = product * g.tile_stride + tile * g.pitch;
      table[rows](g.channels, g.inputs + at, weights, sums + at);
      tile += rows;
    }
  }
}

template <class Form>
void group(const WinogradGroup& g) {
  constexpr int t = Form::products;
  for (int i = 0; i < t; ++i) {
    float* columns = g.columns + i * g.stride;
    const int64_t tiles = transform_inputs<Form>(g, columns);
    const float* weights = g.weights + i * t * g.weight_stride;
    int64_t vector = 0;
    for (int64_t panel = 0; panel < g.panels; ++panel) {
      multiply(g, i * t, t, g.vectors[panel], tiles, weights + vector * kWidth * g.channels,
               g.sums + vector * kWidth);
      vector += g.vectors[panel];
    }
    transform_sums<Form>(g, vector, columns);
  }
}

}  // namespace

void winograd_group(WinogradForm form, const WinogradGroup& g) {
  form.m == 2 ? group<Winograd<2>>(g) : group<Winograd<4>>(g);
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
