// AMX: operands split into bf16 parts.

#include <type_traits>

#include "cpu/simd/bf16_parts.h"

// After simd.h, which defines SIMD_NAMESPACE.
#include "cpu/simd/tiles.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
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

/// Of bf16 magnitudes, as an fp32 number.
SIMD_INLINE uint32_t widened_most(__m512i magnitudes) {
  return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_slli_epi32(magnitudes, 16),
                                                  _mm512_and_si512(magnitudes, _mm512_set1_epi32(-65536))));
}

/// 16-bit values as they are.
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
  return widened_most(most);
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

constexpr int64_t kStepsAhead = 6;

template <class Item>
SIMD_INLINE void fetch_products(const Item* p) {
  __builtin_prefetch(p);
  if constexpr (sizeof(Item) == 4) __builtin_prefetch(p + 16);
}

template <class T, int Parts>
struct Packer {
  const TileWeightPanel& panel;
  __m512i most = _mm512_setzero_si512();

  /// All 32 products of each output channel follow each other. Channels lie far apart in memory, so that
  /// those from `next` on are asked for meanwhile.
  void rows(const typename T::Item* from, const typename T::Item* next, int64_t channels, uint16_t* out) {
    __m512i rows[Parts][kTileSide];
    for (int o = 0; o < kTileSide; ++o) {
      if (next != nullptr) fetch_products(next + (o < channels ? o : 0) * panel.w.stride[0]);
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
  // Tile by tile: the rows of one are as many streams as the hardware fetches ahead.
  const auto of_tile = [&](int t) {
    return w + (t * kTileSide < panel.out_channels ? t * kTileSide * panel.w.stride[0] : 0);
  };
  // Products some steps ahead: of this tile, of the next one, or of the first one's steps behind these.
  const auto ahead = [&](int64_t s, int t) -> const typename T::Item* {
    s += kStepsAhead;
    if (s >= panel.steps) {
      t = (t + 1) % panel.tiles;
      if (t > 0) s -= panel.steps;
    }
    if (s >= panel.steps + panel.following) return nullptr;
    const int64_t offset = panel.offsets[s * kTileDepth];
    return offset < 0 ? nullptr : of_tile(t) + offset;
  };
  for (int t = 0; t < panel.tiles; ++t) {
    const int64_t first = t * kTileSide;
    const int64_t channels = panel.out_channels - first < kTileSide ? panel.out_channels - first : kTileSide;
    const auto* from = of_tile(t);
    for (int64_t s = 0; s < panel.steps; ++s) {
      const int64_t* offsets = panel.offsets + s * kTileDepth;
      uint16_t* out = panel.out + (s * Parts * panel.tiles + t) * kTileItems;
      if (panel.w.stride[0] != 1 && follow_each_other(offsets)) {
        packer.rows(from + offsets[0], ahead(s, t), channels, out);
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

uint32_t look(const TileRows& t, bool whole) {
  const __m512i magnitude = _mm512_set1_epi16(0x7fff), least = _mm512_set1_epi16(kLeastHeld >> 16);
  __m512i most = _mm512_setzero_si512();
  // Rows without a gap are one.
  const bool dense = t.src_stride == t.n;
  const int64_t rows = dense ? 1 : t.rows, n = dense ? t.rows * t.n : t.n;
  for (int64_t r = 0; r < rows; ++r) {
    const auto* from = static_cast<const uint16_t*>(t.src) + r * t.src_stride;
    for (int64_t i = 0; i < n; i += kTileDepth) {
      const __m512i x = _mm512_and_si512(_mm512_maskz_loadu_epi16(mask_of(n - i), from + i), magnitude);
      if (whole) fetch_ahead(from + i);
      if (!whole && _mm512_cmpge_epu16_mask(x, least) != 0) return kLeastHeld;
      most = _mm512_max_epu16(most, x);
    }
  }
  const uint32_t largest = widened_most(most);
  return largest < kLeastHeld ? largest : kLeastHeld;
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

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
