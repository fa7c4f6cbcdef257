// AMX: operands split into bf16 parts, and their products.

#include <immintrin.h>

#include <type_traits>

#include "cpu/simd/bf16_parts.h"
#include "cpu/simd/tile_kernels.h"
#include "cpu/simd/tile_winograd.h"

namespace mlx_conv3d::cpu {
namespace SIMD_NAMESPACE {
namespace {

SIMD_INLINE uint32_t mask_of(int64_t n) {
  return n >= 32 ? ~uint32_t{0} : n <= 0 ? 0 : (uint32_t{1} << n) - 1;
}

SIMD_INLINE Pair load_pair(Float32, const float* p, uint32_t mask) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p),
          _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), p + 16)};
}
SIMD_INLINE Pair load_pair(Float16, const uint16_t* p, uint32_t mask) {
  const __m512i bits = _mm512_maskz_loadu_epi16(mask, p);
  return {_mm512_cvtph_ps(_mm512_castsi512_si256(bits)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1))};
}
SIMD_INLINE Pair load_pair(BFloat16, const uint16_t* p, uint32_t mask) {
  return widen(_mm512_maskz_loadu_epi16(mask, p));
}

/// 32 items of a row that mostly lies in memory, and further rows behind it.
template <class Item>
SIMD_INLINE void fetch_ahead(const Item* p) {
  constexpr int kAhead = 2048;
  __builtin_prefetch((const char*)p + kAhead);
  if constexpr (sizeof(Item) == 4) __builtin_prefetch((const char*)p + kAhead + 64);
}

template <class T, int Parts>
uint32_t split_rows(const TileRows& t) {
  __m512i most = _mm512_setzero_si512();
  for (int64_t r = 0; r < t.rows; ++r) {
    const auto* from = static_cast<const typename T::Item*>(t.src) + r * t.src_stride;
    uint16_t* to = t.out + r * t.out_stride;
    for (int64_t i = 0; i < t.padded; i += kTileDepth) {
      fetch_ahead(from + i);
      const Pair x = load_pair(T(), from + i, mask_of(t.n - i));
      most = larger(most, x);
      __m512i parts[Parts];
      split<Parts>(x, parts);
      const uint32_t written = mask_of(t.padded - i);
#pragma GCC unroll 3
      for (int p = 0; p < Parts; ++p) _mm512_mask_storeu_epi16(to + p * t.part_stride + i, written, parts[p]);
    }
  }
  return _mm512_reduce_max_epu32(most);
}

/// All finite fp16 numbers are well within fp32's range.
SIMD_INLINE uint32_t largest_half(__m512i magnitudes) {
  constexpr uint32_t kOne = 127u << 23, kInfinity = 255u << 23;
  if (_mm512_cmpge_epu16_mask(magnitudes, _mm512_set1_epi16(0x7c00)) != 0) return kInfinity;
  return _mm512_test_epi16_mask(magnitudes, magnitudes) != 0 ? kOne : 0;
}

/// 16-bit values are copied as they are.
uint32_t copy_rows(const TileRows& t) {
  __m512i most = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  for (int64_t r = 0; r < t.rows; ++r) {
    const auto* from = static_cast<const uint16_t*>(t.src) + r * t.src_stride;
    uint16_t* to = t.out + r * t.out_stride;
    for (int64_t i = 0; i < t.padded; i += kTileDepth) {
      fetch_ahead(from + i);
      const __m512i x = _mm512_maskz_loadu_epi16(mask_of(t.n - i), from + i);
      most = _mm512_max_epu16(most, _mm512_and_si512(x, magnitude));
      _mm512_mask_storeu_epi16(to + i, mask_of(t.padded - i), x);
    }
  }
  if (t.type == Dtype::float16) return largest_half(most);
  const __m512i halves =
      _mm512_max_epu32(_mm512_slli_epi32(most, 16), _mm512_and_si512(most, _mm512_set1_epi32(-65536)));
  return _mm512_reduce_max_epu32(halves);
}

template <class T>
uint32_t split_rows(const TileRows& t) {
  switch (t.parts) {
    case 1:
      return split_rows<T, 1>(t);
    case 2:
      return split_rows<T, 2>(t);
    default:
      return split_rows<T, 3>(t);
  }
}

/// 16 rows of 32 items, of one output channel each, to 16 rows of pairs of products.
SIMD_INLINE void store_tile(__m512i* rows, uint16_t* out) {
  Vec columns[kTileSide];
#pragma GCC unroll 16
  for (int i = 0; i < kTileSide; ++i) columns[i] = (Vec)rows[i];
  transpose(columns);
#pragma GCC unroll 16
  for (int i = 0; i < kTileSide; ++i) _mm512_storeu_si512(out + i * kTileDepth, (__m512i)columns[i]);
}

/// The parts of one panel's numbers; a single part of fp16 ones is fp16.
template <class T, int Parts>
SIMD_INLINE void split_item(Pair x, __m512i* parts) {
  if constexpr (Parts == 1 && std::is_same_v<T, Float16>) {
    parts[0] = _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)to_half((Vec)x.low)),
                                  (__m256i)to_half((Vec)x.high), 1);
  } else {
    split<Parts>(x, parts);
  }
}

template <class T, int Parts>
struct Packer {
  const TileWeightPanel& panel;
  __m512i most = _mm512_setzero_si512();

  /// All 32 products of each output channel follow each other.
  void rows(const typename T::Item* from, int64_t channels, uint16_t* out) {
    __m512i rows[Parts][kTileSide];
    for (int o = 0; o < kTileSide; ++o) {
      const Pair x =
          load_pair(T(), o < channels ? from + o * panel.w.stride[0] : from, o < channels ? ~0u : 0u);
      most = larger(most, x);
      __m512i parts[Parts];
      split_item<T, Parts>(x, parts);
#pragma GCC unroll 3
      for (int p = 0; p < Parts; ++p) rows[p][o] = parts[p];
    }
    for (int p = 0; p < Parts; ++p) store_tile(rows[p], out + p * panel.tiles * kTileItems);
  }

  /// The output channels of each product, wherever it is, follow each other or lie evenly spaced.
  void columns(const typename T::Item* from, const int64_t* offsets, int64_t channels, uint16_t* out) {
    for (int i = 0; i < kTileDepth; i += 2) {
      const __m512 even = column(from, offsets[i], channels), odd = column(from, offsets[i + 1], channels);
      most = larger(most, Pair{even, odd});
      __m512i parts[Parts];
      split_item<T, Parts>(Pair{even, odd}, parts);
#pragma GCC unroll 3
      for (int p = 0; p < Parts; ++p) {
        _mm512_storeu_si512(out + p * panel.tiles * kTileItems + i * kTileSide, interleave(parts[p]));
      }
    }
  }
  __m512 column(const typename T::Item* from, int64_t offset, int64_t channels) const {
    if (offset < 0 || channels <= 0) return _mm512_setzero_ps();
    return (__m512)gather<T>(from + offset, panel.w.stride[0], channels);
  }
};

SIMD_INLINE bool follow_each_other(const int64_t* offsets) {
  for (int i = 1; i < kTileDepth; ++i) {
    if (offsets[i] != offsets[0] + i) return false;
  }
  return offsets[0] >= 0;
}

template <class T, int Parts>
uint32_t pack_panel(const TileWeightPanel& panel) {
  Packer<T, Parts> packer{panel};
  const auto* w = static_cast<const typename T::Item*>(panel.w.data);
  for (int64_t s = 0; s < panel.steps; ++s) {
    const int64_t* offsets = panel.offsets + s * kTileDepth;
    const bool rows = panel.w.stride[0] != 1 && follow_each_other(offsets);
    for (int t = 0; t < panel.tiles; ++t) {
      const int64_t first = t * kTileSide;
      const int64_t channels =
          panel.out_channels - first < kTileSide ? panel.out_channels - first : kTileSide;
      const auto* from = w + (channels > 0 ? first * panel.w.stride[0] : 0);
      uint16_t* out = panel.out + (s * Parts * panel.tiles + t) * kTileItems;
      if (rows) {
        packer.rows(from + offsets[0], channels, out);
      } else {
        packer.columns(from, offsets, channels, out);
      }
    }
  }
  return _mm512_reduce_max_epu32(packer.most);
}

template <class T>
uint32_t pack_panel(const TileWeightPanel& panel) {
  switch (panel.parts) {
    case 1:
      return pack_panel<T, 1>(panel);
    case 2:
      return pack_panel<T, 2>(panel);
    default:
      return pack_panel<T, 3>(panel);
  }
}

// Tiles 0 to 3 hold sums (two rows of tiles by two columns), 4 and 5 the left operand, 6 and 7 the right one.

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kConfig;

template <int R>
SIMD_INLINE void load_left(const uint16_t* a, int64_t stride) {
  _tile_loadd(4, a, stride * 2);
  if constexpr (R == 2) _tile_loadd(5, a + kTileSide * stride, stride * 2);
}
template <int N>
SIMD_INLINE void load_right(const uint16_t* b) {
  _tile_loadd(6, b, kTileDepth * 2);
  if constexpr (N == 2) _tile_loadd(7, b + kTileItems, kTileDepth * 2);
}
/// _tile_dpfp16ps as its bytes, for compilers and assemblers that do not know it.
#define SIMD_TILE_DPFP16PS(c, a, b)                                                  \
  __asm__ volatile(".byte 0xc4, 0xe2, %c0, 0x5c, %c1" ::"i"(((~(b) & 15) << 3) | 3), \
                   "i"(0xc0 | ((c) << 3) | (a)))
#define SIMD_TILE_PRODUCT(half, c, a, b) \
  if constexpr (half) {                  \
    SIMD_TILE_DPFP16PS(c, a, b);         \
  } else {                               \
    _tile_dpbf16ps(c, a, b);             \
  }

template <int R, int N>
SIMD_INLINE void multiply_loaded() {
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (N == 2) _tile_dpbf16ps(1, 4, 7);
  if constexpr (R == 2) _tile_dpbf16ps(2, 5, 6);
  if constexpr (R == 2 && N == 2) _tile_dpbf16ps(3, 5, 7);
}
template <int R, int N>
SIMD_INLINE void load_sums(const float* c, int64_t stride) {
  _tile_loadd(0, c, stride * 4);
  if constexpr (N == 2) _tile_loadd(1, c + kTileSide, stride * 4);
  if constexpr (R == 2) _tile_loadd(2, c + kTileSide * stride, stride * 4);
  if constexpr (R == 2 && N == 2) _tile_loadd(3, c + kTileSide * stride + kTileSide, stride * 4);
}
template <int R, int N>
SIMD_INLINE void clear_sums() {
  _tile_zero(0);
  if constexpr (N == 2) _tile_zero(1);
  if constexpr (R == 2) _tile_zero(2);
  if constexpr (R == 2 && N == 2) _tile_zero(3);
}
template <int R, int N>
SIMD_INLINE void store_sums(float* c, int64_t stride) {
  _tile_stored(0, c, stride * 4);
  if constexpr (N == 2) _tile_stored(1, c + kTileSide, stride * 4);
  if constexpr (R == 2) _tile_stored(2, c + kTileSide * stride, stride * 4);
  if constexpr (R == 2 && N == 2) _tile_stored(3, c + kTileSide * stride + kTileSide, stride * 4);
}

/// One step, loading one operand's next part at a time.
template <int R, int N, int Parts, bool Half>
SIMD_INLINE void step(const uint16_t* a, int64_t stride, int64_t part_stride, const uint16_t* b) {
  constexpr int64_t kNext = N * kTileItems;
  const auto left = [&](int part)
                        __attribute__((always_inline)) { load_left<R>(a + part * part_stride, stride); };
  const auto right = [&](int part) __attribute__((always_inline)) { load_right<N>(b + part * kNext); };
  if constexpr (Parts == 1) {
    // Loads between the products: nothing waits for all four.
    _tile_loadd(6, b, kTileDepth * 2);
    _tile_loadd(4, a, stride * 2);
    SIMD_TILE_PRODUCT(Half, 0, 4, 6)
    if constexpr (N == 2) {
      _tile_loadd(7, b + kTileItems, kTileDepth * 2);
      SIMD_TILE_PRODUCT(Half, 1, 4, 7)
    }
    if constexpr (R == 2) {
      _tile_loadd(5, a + kTileSide * stride, stride * 2);
      SIMD_TILE_PRODUCT(Half, 2, 5, 6)
    }
    if constexpr (R == 2 && N == 2) {
      SIMD_TILE_PRODUCT(Half, 3, 5, 7)
    }
  } else if constexpr (Parts == 2) {
    left(0), right(1), multiply_loaded<R, N>();
    right(0), multiply_loaded<R, N>();
    left(1), multiply_loaded<R, N>();
  } else {
    left(0), right(2), multiply_loaded<R, N>();
    right(1), multiply_loaded<R, N>();
    left(1), multiply_loaded<R, N>();
    right(0), multiply_loaded<R, N>();
    left(0), multiply_loaded<R, N>();
    left(2), multiply_loaded<R, N>();
  }
}

/// What is behind the last row is not read or written where it lies, but in a copy.
template <int R, int N>
struct Copy {
  static constexpr int64_t kStride = N * kTileSide;
  alignas(64) float sums[R * kTileSide * kStride];

  void take(const float* c, int64_t stride, int64_t rows) {
    for (int64_t r = 0; r < R * kTileSide; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        store(sums + r * kStride + n * kTileSide, r < rows ? load(c + r * stride + n * kTileSide) : Vec{});
      }
    }
  }
  void give(float* c, int64_t stride, int64_t rows, bool add) const {
    for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        float* to = c + r * stride + n * kTileSide;
        const Vec v = load(sums + r * kStride + n * kTileSide);
        store(to, add ? load(to) + v : v);
      }
    }
  }
};

template <int R, int N, int Parts, bool Half>
void block(const TileProduct& t, int64_t row, int64_t rows) {
  // One product in three or six would round the sums as often as all of a block's: these are summed apart.
  constexpr bool kApart = Parts > 1;
  const bool whole = rows == R * kTileSide;
  Copy<R, N> copy;
  float* c = t.c + row * t.c_stride;
  if (kApart || !t.accumulate) {
    clear_sums<R, N>();
  } else if (whole) {
    load_sums<R, N>(c, t.c_stride);
  } else {
    copy.take(c, t.c_stride, rows);
    load_sums<R, N>(copy.sums, copy.kStride);
  }
  const uint16_t* a = t.a + row * t.a_stride;
  const int64_t stride = t.a_stride, part_stride = t.a_part_stride;
  // The next rows' sums lie in the L2 cache, the next panel in L3: fetched while these products are taken.
  const bool fetch = !kApart && t.accumulate && R == 2;
  const int64_t sums_ahead = fetch ? (2 * kTileSide + t.step_count - 1) / t.step_count : 0;
  const float* sums = c + R * kTileSide * t.c_stride;
  constexpr int64_t kLine = 32, kStepItems = Parts * N * kTileItems;
  const int64_t blocks = (t.rows + 2 * kTileSide - 1) / (2 * kTileSide), block = row / (2 * kTileSide);
  const int64_t lines = t.next ? (kStepItems / kLine + blocks - 1) / blocks : 0;
  const uint16_t* next = t.next + block * lines * t.step_count * kLine;
  for (int64_t s = 0; s < t.step_count; ++s) {
    for (int64_t i = 0; i < sums_ahead; ++i, sums += t.c_stride) {
      __builtin_prefetch(sums, 1, 3);
      if constexpr (N == 2) __builtin_prefetch(sums + kTileSide, 1, 3);
    }
    for (int64_t i = 0; i < lines; ++i, next += kLine) __builtin_prefetch(next, 0, 2);
    step<R, N, Parts, Half>(a + t.steps[s].a, stride, part_stride, t.b + t.steps[s].b * kStepItems);
  }
  const bool add = kApart && t.accumulate;
  if (whole && !add) return store_sums<R, N>(c, t.c_stride);
  store_sums<R, N>(copy.sums, copy.kStride);
  copy.give(c, t.c_stride, rows, add);
}

template <int N, int Parts, bool Half = false>
void multiply_rows(const TileProduct& t) {
  int64_t row = 0;
  for (; t.rows - row > kTileSide; row += 2 * kTileSide) {
    block<2, N, Parts, Half>(t, row, t.rows - row < 2 * kTileSide ? t.rows - row : 2 * kTileSide);
  }
  if (row < t.rows) block<1, N, Parts, Half>(t, row, t.rows - row);
}

template <int N>
void multiply_parts(const TileProduct& t) {
  switch (t.parts) {
    case 1:
      return t.half ? multiply_rows<N, 1, true>(t) : multiply_rows<N, 1>(t);
    case 2:
      return multiply_rows<N, 2>(t);
    default:
      return multiply_rows<N, 3>(t);
  }
}

}  // namespace

uint32_t split(const TileRows& rows) {
  if (rows.type != Dtype::float32 && rows.parts == 1) return copy_rows(rows);
  switch (rows.type) {
    case Dtype::float32:
      return split_rows<Float32>(rows);
    case Dtype::float16:
      return split_rows<Float16>(rows);
    default:
      return split_rows<BFloat16>(rows);
  }
}

uint32_t pack(const TileWeightPanel& panel) {
  switch (panel.w.type) {
    case Dtype::float32:
      return pack_panel<Float32>(panel);
    case Dtype::float16:
      return pack_panel<Float16>(panel);
    default:
      return pack_panel<BFloat16>(panel);
  }
}

/// The tiles are this call's alone: a thread that holds none is switched and its state saved faster.
void multiply(const TileProduct& product) {
  _tile_loadconfig(&kConfig);
  if (product.tiles == 1) {
    multiply_parts<1>(product);
  } else {
    multiply_parts<2>(product);
  }
  _tile_release();
}

}  // namespace SIMD_NAMESPACE

extern const TileKernels tile_kernels_amx;
const TileKernels tile_kernels_amx = {false,
                                      SIMD_NAMESPACE::split,
                                      SIMD_NAMESPACE::pack,
                                      SIMD_NAMESPACE::multiply,
                                      SIMD_NAMESPACE::winograd_input_parts,
                                      SIMD_NAMESPACE::winograd_depth_parts,
                                      SIMD_NAMESPACE::winograd_weight_parts};

}  // namespace mlx_conv3d::cpu
