// Direct convolution for few channels per group: the lanes are output channels, the inputs of each lane's group
// are picked from the pixel.

#include "cpu/simd/direct.h"

#include "cpu/simd/convert.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <class T, int Shape>
SIMD_INLINE Vec pick(const typename T::Item* pixel, const int32_t* source, int64_t c) {
  if constexpr (Shape == kContiguous) return T::load(pixel + source[0]);
  if constexpr (Shape == kBroadcast) return splat(T::scalar(pixel + source[0] + c));
  float lanes[kWidth];
  for (int l = 0; l < kWidth; ++l) lanes[l] = T::scalar(pixel + source[l] + c);
  return load(lanes);
}

/// Positions in pairs of four share each weight vector while it is in a register.
template <class T, int Shape, int P>
SIMD_INLINE void positions(const DirectRow& row, const void* const* pixels, const int32_t* source,
                           const float* weights, float* out, int64_t out_stride) {
  Vec sums[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) sums[p] = Vec{};
  for (int64_t tap = 0; tap < row.taps; ++tap) {
    for (int64_t c = 0; c < row.group_in; ++c, weights += kWidth) {
      const Vec w = load(weights);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const auto* pixel = static_cast<const typename T::Item*>(pixels[p * row.taps + tap]);
        sums[p] += w * pick<T, Shape>(pixel, source, c);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) store(out + p * out_stride, sums[p]);
}

template <class T, int Shape>
SIMD_INLINE void vector_of_outputs(const DirectRow& row, int64_t v) {
  const int64_t out_stride = row.vectors * kWidth;
  const int32_t* source = row.source + v * kWidth;
  const float* weights = row.weights + v * row.taps * row.group_in * kWidth;
  int64_t p = 0;
  for (; p + 4 <= row.positions; p += 4) {
    positions<T, Shape, 4>(row, row.pixels + p * row.taps, source, weights, row.out + p * out_stride + v * kWidth,
                           out_stride);
  }
  for (; p < row.positions; ++p) {
    positions<T, Shape, 1>(row, row.pixels + p * row.taps, source, weights, row.out + p * out_stride + v * kWidth,
                           out_stride);
  }
}

template <class T>
void all_vectors(const DirectRow& row) {
  for (int64_t v = 0; v < row.vectors; ++v) {
    switch (row.shape[v]) {
      case kContiguous: vector_of_outputs<T, kContiguous>(row, v); break;
      case kBroadcast: vector_of_outputs<T, kBroadcast>(row, v); break;
      default: vector_of_outputs<T, kGather>(row, v); break;
    }
  }
}

template <class T, int Shape>
SIMD_INLINE void gradient_of_vector(const DirectRow& row, int64_t v, const float* dy, float* sums) {
  const int64_t stride = row.vectors * kWidth;
  const int32_t* source = row.source + v * kWidth;
  float* to = sums + v * row.taps * row.group_in * kWidth;
  for (int64_t tap = 0; tap < row.taps; ++tap) {
    for (int64_t c = 0; c < row.group_in; ++c, to += kWidth) {
      Vec sum = Vec{};
      for (int64_t p = 0; p < row.positions; ++p) {
        const auto* pixel = static_cast<const typename T::Item*>(row.pixels[p * row.taps + tap]);
        sum += load(dy + p * stride + v * kWidth) * pick<T, Shape>(pixel, source, c);
      }
      store(to, load(to) + sum);
    }
  }
}

template <class T>
void gradient_of_all(const DirectRow& row, const float* dy, float* sums) {
  for (int64_t v = 0; v < row.vectors; ++v) {
    switch (row.shape[v]) {
      case kContiguous: gradient_of_vector<T, kContiguous>(row, v, dy, sums); break;
      case kBroadcast: gradient_of_vector<T, kBroadcast>(row, v, dy, sums); break;
      default: gradient_of_vector<T, kGather>(row, v, dy, sums); break;
    }
  }
}

}  // namespace

void direct_gradient(Dtype type, const DirectRow& row, const float* dy, float* sums) {
  SIMD_BY_TYPE(type, gradient_of_all, row, dy, sums)
}

void direct(Dtype type, const DirectRow& row) { SIMD_BY_TYPE(type, all_vectors, row) }

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
