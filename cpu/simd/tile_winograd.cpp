// Winograd's transforms to what a matrix unit multiplies: bf16 parts.

#include "cpu/simd/bf16_parts.h"
#include "cpu/simd/winograd_transforms.h"

// After simd.h, which defines SIMD_NAMESPACE.
#include "cpu/simd/tile_winograd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

SIMD_INLINE Pair scaled(Vec low, Vec high, Vec scale) {
  return {(__m512)(low * scale), (__m512)(high * scale)};
}

/// `count` pairs of vectors, `stride` items apart, as the 32 items of a row of parts.
template <int Parts>
__m512i store_rows(int count, const Vec* low, const Vec* high, uint16_t* out, int64_t stride,
                   const TileParts& how, __m512i most) {
  const Vec scale = splat(how.scale);
  for (int i = 0; i < count; ++i) {
    const Pair x = scaled(low[i], high[i], scale);
    most = larger(most, x);
    __m512i parts[Parts];
    split<Parts>(x, parts);
#pragma GCC unroll 3
    for (int p = 0; p < Parts; ++p) _mm512_storeu_si512(out + i * stride + p * how.part_stride, parts[p]);
  }
  return most;
}

/// The same as they are, in fp32.
__m512i store_whole(int count, const Vec* low, const Vec* high, float* out, int64_t stride,
                    const TileParts& how, __m512i most) {
  const Vec scale = splat(how.scale);
  for (int i = 0; i < count; ++i) {
    const Pair x = scaled(low[i], high[i], scale);
    most = larger(most, x);
    store(out + i * stride, (Vec)x.low);
    store(out + i * stride + kWidth, (Vec)x.high);
  }
  return most;
}

/// 32 channels of all frequencies.
__m512i store_step(int count, const Vec* low, const Vec* high, const WinogradInputTile& tile, int64_t c,
                   const TileParts& how, __m512i most) {
  if (how.parts == 0) {
    return store_whole(count, low, high, static_cast<float*>(tile.out) + c, tile.xi_stride, how, most);
  }
  uint16_t* out = static_cast<uint16_t*>(tile.out) + c;
  if (how.parts == 2) return store_rows<2>(count, low, high, out, tile.xi_stride, how, most);
  return store_rows<3>(count, low, high, out, tile.xi_stride, how, most);
}

template <class Form, class T>
void input(const WinogradInputTile& tile, const TileParts& how, uint32_t& largest) {
  constexpr int all = Form::pixels * Form::pixels;
  Vec rows[2][all];
  __m512i most = _mm512_setzero_si512();
  const auto write = [&](int xi, int64_t c, Vec v) {
    rows[c / kWidth % 2][xi] = v;
    if (xi + 1 == all && c / kWidth % 2 == 1)
      most = store_step(all, rows[0], rows[1], tile, c - kWidth, how, most);
  };
  transform_pixels<Form, T, false>(tile.rows, tile.channels, 0, write);
  const int64_t vectors = (tile.channels + kWidth - 1) / kWidth;
  if (vectors % 2 == 1) {
    for (Vec& v : rows[1]) v = Vec{};
    most = store_step(all, rows[0], rows[1], tile, (vectors - 1) * kWidth, how, most);
  }
  largest = _mm512_reduce_max_epu32(most);
}

/// All weights of two input channels.
template <int Parts>
__m512i store_pairs(int count, const Vec* even, const Vec* odd, uint16_t* out, int64_t stride, bool streaming,
                    const TileParts& how, __m512i most) {
  const Vec scale = splat(how.scale);
  for (int i = 0; i < count; ++i) {
    const Pair x = scaled(even[i], odd[i], scale);
    most = larger(most, x);
    __m512i parts[Parts];
    split<Parts>(x, parts);
#pragma GCC unroll 3
    for (int p = 0; p < Parts; ++p) {
      auto* to = reinterpret_cast<__m512i*>(out + i * stride + p * how.part_stride);
      const __m512i both = interleave(parts[p]);
      streaming ? _mm512_stream_si512(to, both) : _mm512_storeu_si512(to, both);
    }
  }
  return most;
}

template <class Form, int Depths>
struct WeightPairs {
  static constexpr int plane = Form::taps * Form::taps, weights = Form::weights * Form::weights,
                       terms = depth_terms<Depths>;
  const WinogradWeightPanel& panel;
  const TileParts& how;
  Vec even[terms * plane] = {};
  __m512i most = _mm512_setzero_si512();

  void add(int vector, int64_t c, const Vec* taps) {
    if (c % 2 == 0) {
      combine_depths<Form, Depths>(taps, even);
      if (c + 1 < panel.channels) return;
    }
    Vec odd[terms * plane] = {};
    if (c % 2 == 1) combine_depths<Form, Depths>(taps, odd);
    write(vector, c / 2, odd);
  }

  /// The channels that a step lacks.
  void fill() {
    for (Vec& v : even) v = Vec{};
    for (int vector = 0; vector < panel.vectors; ++vector) {
      for (int64_t pair = (panel.channels + 1) / 2; pair < kTileDepth / 2; ++pair) write(vector, pair, even);
    }
  }

 private:
  void write(int vector, int64_t pair, const Vec* odd) {
    uint16_t* out = static_cast<uint16_t*>(panel.out) + vector * kTileItems + pair * kTileDepth;
    for (int term = 0; term < terms; ++term) {
      Vec low[weights], high[weights];
      transform_taps<Form>(even + term * plane, [&](int weight, Vec v) { low[weight] = v; });
      transform_taps<Form>(odd + term * plane, [&](int weight, Vec v) { high[weight] = v; });
      uint16_t* to = out + (Depths == 1 ? 0 : kDepthSlot[term]) * panel.depth_stride;
      most = how.parts == 2
                 ? store_pairs<2>(weights, low, high, to, panel.xi_stride, panel.streaming, how, most)
                 : store_pairs<3>(weights, low, high, to, panel.xi_stride, panel.streaming, how, most);
    }
  }
};

template <class Form, int Depths>
uint32_t weight_panel(const WinogradWeightPanel& panel, const TileParts& how) {
  WeightPairs<Form, Depths> pairs{panel, how};
  read_taps<Form, Depths>(panel, [&](int vector, int64_t c, const Vec* taps) { pairs.add(vector, c, taps); });
  pairs.fill();
  return _mm512_reduce_max_epu32(pairs.most);
}

template <class Form, class>
void weight(int depth_m, const WinogradWeightPanel& panel, const TileParts& how, uint32_t& largest) {
  largest = 0;
  if constexpr (kPairsFrames<Form>) {
    if (depth_m == 2) largest = weight_panel<Form, 3>(panel, how);
  }
  if (depth_m == 1) largest = weight_panel<Form, 1>(panel, how);
  if (panel.streaming) fence();
}

template <class T>
void input_any(WinogradForm form, const WinogradInputTile& tile, const TileParts& how, uint32_t& largest) {
  SIMD_BY_FORM(form, T, input, tile, how, largest)
}
void weight_any(WinogradForm form, const WinogradWeightPanel& panel, const TileParts& how,
                uint32_t& largest) {
  SIMD_BY_FORM(form, void, weight, form.depth_m, panel, how, largest)
}

template <int Parts>
void depth_parts(int begin, int end, int64_t n, const float* in, int64_t frame_stride, uint16_t* out,
                 int64_t out_stride, int64_t part_stride) {
  constexpr int terms = Winograd<2>::pixels;
  for (int64_t i = 0; i < n; i += kTileDepth) {
    Vec low[terms] = {}, high[terms] = {}, a[terms], b[terms];
    for (int f = begin; f < end; ++f) {
      low[f] = load(in + f * frame_stride + i);
      high[f] = load(in + f * frame_stride + i + kWidth);
    }
    apply<terms, terms, Winograd<2>::Bt, 1, 1>(low, a);
    apply<terms, terms, Winograd<2>::Bt, 1, 1>(high, b);
    for (int f = begin; f < end; ++f) {
      __m512i parts[Parts];
      split<Parts>({(__m512)a[f], (__m512)b[f]}, parts);
#pragma GCC unroll 3
      for (int p = 0; p < Parts; ++p) {
        _mm512_storeu_si512(out + kDepthSlot[f] * out_stride + p * part_stride + i, parts[p]);
      }
    }
  }
}

}  // namespace

uint32_t winograd_input_parts(WinogradForm form, Dtype type, const WinogradInputTile& tile,
                              const TileParts& parts) {
  uint32_t largest = 0;
  SIMD_BY_TYPE(type, input_any, form, tile, parts, largest)
  return largest;
}

uint32_t winograd_weight_parts(WinogradForm form, const WinogradWeightPanel& panel, const TileParts& parts) {
  uint32_t largest = 0;
  weight_any(form, panel, parts, largest);
  return largest;
}

void winograd_depth_parts(bool has_first, bool has_last, int64_t n, const float* in, int64_t frame_stride,
                          uint16_t* out, int64_t out_stride, const TileParts& parts) {
  constexpr int terms = Winograd<2>::pixels;
  const int begin = has_first ? 0 : 1, end = has_last ? terms : terms - 1;
  const auto run = parts.parts == 2 ? depth_parts<2> : depth_parts<3>;
  run(begin, end, n, in, frame_stride, out, out_stride, parts.part_stride);
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
