// F(4, 3) along the width with the taps along the height summed in the transform domain. A tile's frequency
// is met by three output rows, and so held in a register for three products: these run at the speed of the
// multiply-adds, which one load for each product does not allow.

#include "cpu/simd/winograd_rows.h"

#include "cpu/simd/convert.h"
#include "cpu/simd/fetch.h"
#include "cpu/simd/grouped.h"
#include "cpu/simd/winograd_axis.h"
#include "cpu/simd/winograd_transforms.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

using Form = Winograd<4>;
constexpr int kFrequencies = Form::products, kOutputs = Form::outputs, kTaps = Form::taps;
/// Rows and tiles of a block of sums.
constexpr int kMostRows = SIMD_REGISTERS == 32 ? 7 : 5, kMostTiles = 2;

/// A vector of channels from c on, of T neighbouring tiles. Whole: it has no more than exist.
template <class T, int Tiles, bool Whole, bool Woven>
SIMD_INLINE void transform_tiles(const WinogradRowPixels& s, int64_t tile, int64_t c) {
  typedef typename T::Item Item;
  constexpr int kColumns = (Tiles - 1) * kOutputs + Form::pixels;
  const int64_t* columns = s.columns + tile * kOutputs;
  const int64_t left = s.channels - c, step = columns[2] - columns[1];
  bool follow = true;  // no column is one of zeros
  for (int j = 0; j < kColumns; ++j) follow = follow && columns[j] == columns[0] + j * step;
  IVec order{};
  if constexpr (Woven) order = *(const IVecUnaligned*)s.order;
  const auto read = [&](const char* p) __attribute__((always_inline)) {
    const auto* items = reinterpret_cast<const Item*>(p);
    Vec v = Whole ? T::load(items) : load_part<T>(items, left);
    if constexpr (Woven) v = permuted(v, order);
    return v;
  };
  const int64_t offset = s.offset + c * static_cast<int64_t>(sizeof(Item)), tile_stride = s.rows * s.pitch;
  float* out = s.out + tile * tile_stride + c;
  for (int64_t row = 0; row < s.rows; ++row, out += s.pitch) {
    Vec d[kColumns] = {};
    if (s.row[row] != nullptr) {
      const char* from = static_cast<const char*>(s.row[row]) + offset;
      if (follow) {
        from += columns[0];
#pragma GCC unroll 16
        for (int j = 0; j < kColumns; ++j, from += step) d[j] = read(from);
      } else {
#pragma GCC unroll 16
        for (int j = 0; j < kColumns; ++j) {
          if (columns[j] != kNoColumn) d[j] = read(from + columns[j]);
        }
      }
    }
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t) {
      Vec frequencies[kFrequencies];
      transform_input<Form>(d + t * kOutputs, frequencies);
#pragma GCC unroll 8
      for (int j = 0; j < kFrequencies; ++j) store(out + t * tile_stride + j * s.stride, frequencies[j]);
    }
  }
}

template <class T, int Tiles>
void pixels_of(const WinogradRowPixels& s, int64_t tile) {
  if (s.order != nullptr) return transform_tiles<T, Tiles, true, true>(s, tile, 0);
  int64_t c = 0;
  for (; c + kWidth <= s.channels; c += kWidth) transform_tiles<T, Tiles, true, false>(s, tile, c);
  if (c < s.channels) transform_tiles<T, Tiles, false, false>(s, tile, c);
}

template <class T>
void pixels(const WinogradRowPixels& s) {
  int64_t tile = 0;
  for (; tile + 2 <= s.tiles; tile += 2) pixels_of<T, 2>(s, tile);
  if (tile < s.tiles) pixels_of<T, 1>(s, tile);
}

/// Sums of R rows and T tiles, one vector of outputs, one frequency. Pitch is a constant, so that all rows of
/// a tile are addressed from one register.
template <int R, int T, int64_t Pitch, int Groups>
void block(int64_t channels, const float* x, int64_t tile, const float* w, float* to, int64_t to_tile) {
  Vec sums[T][R];
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[t][r] = Vec{};
  }
#pragma GCC unroll 1
  for (int64_t c = 0; c < channels; ++c, x += Groups, w += kTaps * kWidth) {
    Vec taps[kTaps];
#pragma GCC unroll 3
    for (int k = 0; k < kTaps; ++k) taps[k] = load(w + k * kWidth);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 16
      for (int i = 0; i < R + kTaps - 1; ++i) {
        Vec input = repeat<Groups>(x + t * tile + i * Pitch);
        hold(input);
#pragma GCC unroll 3
        for (int k = 0; k < kTaps; ++k) {
          if (i >= k && i - k < R) sums[t][i - k] += input * taps[k];
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) store(to + t * to_tile + r * Pitch, sums[t][r]);
  }
}

using Block = void (*)(int64_t channels, const float* x, int64_t tile, const float* w, float* to,
                       int64_t to_tile);
/// Blocks by their tiles and rows.
struct BlockTable {
  Block of[kMostTiles + 1][kMostRows + 1] = {};
};
template <int64_t Pitch, int Groups>
constexpr BlockTable table() {
  BlockTable t;
  unroll<1, kMostTiles + 1>([&](auto tiles) {
    unroll<1, kMostRows + 1>([&](auto rows) {
      constexpr int T = decltype(tiles)::value, R = decltype(rows)::value;
      t.of[T][R] = block<R, T, Pitch, Groups>;
    });
  });
  return t;
}
constexpr BlockTable kOneGroup[] = {table<kWidth, 1>(), table<2 * kWidth, 1>(), table<4 * kWidth, 1>()};
constexpr BlockTable kTwoGroups = table<kWidth, 2>();
constexpr BlockTable kFourGroups = table<kWidth, kWidth >= 8 ? 4 : 2>();

const BlockTable& table_of(const WinogradRows& g) {
  if (g.woven == 2) return kTwoGroups;
  if (g.woven == 4) return kFourGroups;
  return kOneGroup[g.pitch == kWidth ? 0 : g.pitch == 2 * kWidth ? 1 : 2];
}

/// Part `i` of `parts` of the lines.
template <class F>
SIMD_INLINE void fetch(const FetchedLines& f, int64_t i, int64_t parts, F&& line) {
  const int64_t end = f.count * (i + 1) / parts;
  for (int64_t n = f.count * i / parts; n < end; ++n) line(f.base + f.offset[n]);
}

}  // namespace

void winograd_row_pixels(Dtype type, const WinogradRowPixels& rows) { SIMD_BY_TYPE(type, pixels, rows) }

void winograd_rows(const WinogradRows& g) {
  const BlockTable& table = table_of(g);
  const int64_t in_tile = (g.rows + kTaps - 1) * g.pitch, out_tile = g.rows * g.pitch;
  const int64_t row_blocks = (g.rows + kMostRows - 1) / kMostRows,
                tile_blocks = (g.tiles + kMostTiles - 1) / kMostTiles;
  const int64_t calls = g.vectors * kFrequencies * tile_blocks * row_blocks;
  const float* weights = g.weights;
  int64_t call = 0;
  for (int64_t v = 0; v < g.vectors; ++v) {
    for (int f = 0; f < kFrequencies; ++f, weights += g.channels * kTaps * kWidth) {
      for (int64_t tile = 0; tile < g.tiles; tile += kMostTiles) {
        const int64_t tiles = g.tiles - tile < kMostTiles ? g.tiles - tile : kMostTiles;
        for (int64_t i = 0; i < row_blocks; ++i, ++call) {
          const int64_t row = g.rows * i / row_blocks, end = g.rows * (i + 1) / row_blocks;
          fetch(g.reads, call, calls, fetch_to_read);
          fetch(g.writes, call, calls, fetch_to_write);
          table.of[tiles][end - row](
              g.channels, g.inputs + f * g.stride + tile * in_tile + row * g.pitch, in_tile, weights,
              g.sums + f * g.sums_stride + tile * out_tile + row * g.pitch + v * kWidth, out_tile);
        }
      }
    }
  }
}

namespace {

template <class T, bool Plain>
SIMD_INLINE void tile_results(const WinogradRowResults& s, int64_t tile, int64_t row, int64_t o) {
  const Epilogue& e = *s.epilogue;
  const float* in = s.in + (tile * s.rows + row) * s.pitch + o;
  Vec d[kFrequencies], results[kOutputs];
#pragma GCC unroll 8
  for (int j = 0; j < kFrequencies; ++j) d[j] = load(in + j * s.stride);
  transform_output<Form>(d, results);
  auto* y = static_cast<typename T::Item*>(s.out);
  const auto* residual = static_cast<const typename T::Item*>(e.residual);
  int64_t at = s.first + row * s.row_stride + tile * kOutputs * s.pixel_stride + o;
  const int64_t exist = s.cols - tile * kOutputs;
#pragma GCC unroll 8
  for (int j = 0; j < kOutputs; ++j, at += s.pixel_stride) {
    if (j >= exist) break;
    if (s.order != nullptr) results[j] = permuted(results[j], *(const IVecUnaligned*)s.order);
    if constexpr (Plain) {
      T::store(y + at, results[j]);
    } else {
      store_lanes<T>(results[j], e.activation, e.bias ? e.bias + o : nullptr,
                     residual ? residual + at : nullptr, y + at, kWidth);
    }
  }
}

template <class T, bool Plain>
void results(const WinogradRowResults& s) {
  for (int64_t row = 0; row < s.rows; ++row) {
    for (int64_t tile = 0; tile < s.tiles; ++tile) {
      for (int64_t o = 0; o < s.channels; o += kWidth) tile_results<T, Plain>(s, tile, row, o);
    }
  }
}

template <class T>
void results_any(const WinogradRowResults& s) {
  const Epilogue& e = *s.epilogue;
  const bool plain = e.activation == Activation::none && e.residual == nullptr && e.bias == nullptr;
  plain ? results<T, true>(s) : results<T, false>(s);
}

}  // namespace

void winograd_row_results(const WinogradRowResults& s) { SIMD_BY_TYPE(s.epilogue->type, results_any, s) }

void winograd_row_weight(const WinogradWeightPanel& panel) {
  // Copies: what is stored could otherwise be the panel itself.
  auto* results = static_cast<float*>(panel.out);
  const int64_t channels = panel.channels;
  read_taps<Form, 1>(panel, [=](int v, int64_t c, const Vec* taps) __attribute__((always_inline)) {
    float* out = results + (v * kFrequencies * channels + c) * kTaps * kWidth;
#pragma GCC unroll 3
    for (int row = 0; row < kTaps; ++row) {
      Vec frequencies[kFrequencies];
      apply<kFrequencies, kTaps, Form::G, 1, 1>(taps + row * kTaps, frequencies);
#pragma GCC unroll 8
      for (int f = 0; f < kFrequencies; ++f) {
        store(out + (f * channels * kTaps + row) * kWidth, frequencies[f]);
      }
    }
  });
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
