// Direct convolution for few channels per group: the lanes are output channels, the inputs of each lane's
// group are picked from the pixel. A picked vector serves every tap of the row that meets it.

#include "cpu/simd/direct.h"

#include "cpu/simd/convert.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

/// out[l] = the concatenation of a and b at index[l].
SIMD_INLINE Vec permute(Vec a, Vec b, IVec index) {
#if defined(__AVX512F__)
  return (Vec)_mm512_permutex2var_ps((__m512)a, (__m512i)index, (__m512)b);
#elif defined(__AVX2__)
  const __m256 low = _mm256_permutevar8x32_ps((__m256)a, (__m256i)index);
  const __m256 high = _mm256_permutevar8x32_ps((__m256)b, (__m256i)index);
  return (Vec)_mm256_blendv_ps(low, high, (__m256)(index << 28));
#else
  float both[2 * kWidth];
  store(both, a);
  store(both + kWidth, b);
  Vec out = a;
  for (int l = 0; l < kWidth; ++l) out[l] = both[index[l]];
  return out;
#endif
}

/// Reads input channel c of every lane's group from a pixel.
template <class T, int Shape>
struct Picker {
  typedef typename T::Item Item;
  const int32_t* source;
  int64_t left;  ///< channels from the first lane's on
  bool wide;     ///< the window spans two vectors
  IVec index;

  SIMD_INLINE Picker make(const DirectRow& row, int64_t v) {
    Picker p{};
    p.source = row.source + v * kWidth;
    p.left = row.channels - p.source[0];
    for (int l = 0; l < kWidth; ++l) p.index[l] = p.source[l] - p.source[0];
    p.wide = p.index[kWidth - 1] + row.group_in > kWidth;
    return p;
  }

  SIMD_INLINE Vec part(const Item* from, int64_t n) {
    return n >= kWidth ? T::load(from) : n > 0 ? load_part<T>(from, n) : Vec{};
  }

  Vec operator()(const void* pixel, int64_t c) const __attribute__((always_inline)) {
    const Item* p = static_cast<const Item*>(pixel);
    if constexpr (Shape == kContiguous) return T::load(p + source[0]);
    if constexpr (Shape == kBroadcast) return splat(T::scalar(p + source[0] + c));
    if constexpr (Shape == kWindow) {
      const Vec low = part(p + source[0], left);
      const Vec high = wide ? part(p + source[0] + kWidth, left - kWidth) : low;
      return permute(low, high, index + static_cast<int32_t>(c));
    }
    float lanes[kWidth];
    for (int l = 0; l < kWidth; ++l) lanes[l] = T::scalar(p + source[l] + c);
    return load(lanes);
  }
};

/// K taps side by side at stride 1: every picked vector meets up to K outputs.
template <int P, int K, class Pick>
SIMD_INLINE void neighbouring_taps(const Pick& pick, const void* const* pixels, int64_t group_in,
                                   const float* weights, Vec* sums) {
  for (int64_t c = 0; c < group_in; ++c) {
    Vec w[K];
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) w[k] = load(weights + (k * group_in + c) * kWidth);
#pragma GCC unroll 16
    for (int t = 0; t < P + K - 1; ++t) {
      const Vec x = pick(pixels[t], c);
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) {
        if (t >= k && t - k < P) sums[t - k] += x * w[k];
      }
    }
  }
}

template <int P, class Pick>
SIMD_INLINE void any_taps(const DirectRow& row, const Pick& pick, const void* const* pixels,
                          const float* weights, Vec* sums) {
  for (int64_t kw = 0; kw < row.col_taps; ++kw) {
    for (int64_t c = 0; c < row.group_in; ++c, weights += kWidth) {
      const Vec w = load(weights);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) sums[p] += w * pick(pixels[p * row.stride + kw * row.dilation], c);
    }
  }
}

template <int P, class Pick>
SIMD_INLINE void positions(const DirectRow& row, const Pick& pick, int64_t first, int64_t v) {
  Vec sums[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) sums[p] = Vec{};
  const int64_t per_row = row.col_taps * row.group_in * kWidth;
  const float* weights = row.weights + v * row.row_taps * per_row;
  const bool side_by_side = row.stride == 1 && row.dilation == 1;
  for (int64_t tap = 0; tap < row.row_taps; ++tap, weights += per_row) {
    const void* const* pixels = row.pixels + tap * row.columns + first * row.stride;
    if (pixels[0] == nullptr) continue;
    if (side_by_side && row.col_taps == 3) {
      neighbouring_taps<P, 3>(pick, pixels, row.group_in, weights, sums);
    } else if (side_by_side && row.col_taps == 2) {
      neighbouring_taps<P, 2>(pick, pixels, row.group_in, weights, sums);
    } else {
      any_taps<P>(row, pick, pixels, weights, sums);
    }
  }
  float* out = row.out + first * row.vectors * kWidth + v * kWidth;
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) store(out + p * row.vectors * kWidth, sums[p]);
}

template <class T, int Shape>
void forward(const DirectRow& row, int64_t v) {
  constexpr int P = SIMD_REGISTERS == 32 ? 8 : 4;
  const auto pick = Picker<T, Shape>::make(row, v);
  int64_t p = 0;
  for (; p + P <= row.positions; p += P) positions<P>(row, pick, p, v);
  for (; p + 2 <= row.positions; p += 2) positions<2>(row, pick, p, v);
  for (; p < row.positions; ++p) positions<1>(row, pick, p, v);
}

template <class T, int Shape>
void backward(const DirectRow& row, int64_t v, const float* dy, float* sums) {
  const auto pick = Picker<T, Shape>::make(row, v);
  const int64_t pitch = row.vectors * kWidth;
  dy += v * kWidth;
  float* to = sums + v * row.row_taps * row.col_taps * row.group_in * kWidth;
  for (int64_t tap = 0; tap < row.row_taps; ++tap) {
    const void* const* pixels = row.pixels + tap * row.columns;
    for (int64_t kw = 0; kw < row.col_taps; ++kw) {
      for (int64_t c = 0; c < row.group_in; ++c, to += kWidth) {
        if (pixels[0] == nullptr) continue;
        Vec sum = Vec{};
        for (int64_t p = 0; p < row.positions; ++p) {
          sum += load(dy + p * pitch) * pick(pixels[p * row.stride + kw * row.dilation], c);
        }
        store(to, load(to) + sum);
      }
    }
  }
}

template <class T>
void forward_all(const DirectRow& row) {
  for (int64_t v = 0; v < row.vectors; ++v) {
    switch (row.shape[v]) {
      case kContiguous:
        forward<T, kContiguous>(row, v);
        break;
      case kBroadcast:
        forward<T, kBroadcast>(row, v);
        break;
      case kWindow:
        forward<T, kWindow>(row, v);
        break;
      default:
        forward<T, kGather>(row, v);
        break;
    }
  }
}

template <class T>
void backward_all(const DirectRow& row, const float* dy, float* sums) {
  for (int64_t v = 0; v < row.vectors; ++v) {
    switch (row.shape[v]) {
      case kContiguous:
        backward<T, kContiguous>(row, v, dy, sums);
        break;
      case kBroadcast:
        backward<T, kBroadcast>(row, v, dy, sums);
        break;
      case kWindow:
        backward<T, kWindow>(row, v, dy, sums);
        break;
      default:
        backward<T, kGather>(row, v, dy, sums);
        break;
    }
  }
}

}  // namespace

void direct(Dtype type, const DirectRow& row) { SIMD_BY_TYPE(type, forward_all, row) }

void direct_gradient(Dtype type, const DirectRow& row, const float* dy, float* sums) {
  SIMD_BY_TYPE(type, backward_all, row, dy, sums)
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
