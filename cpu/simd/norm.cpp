// RMS norm with an activation, and its adjoint, a row of channels at a time.

#include "cpu/simd/norm.h"

#include "cpu/simd/convert.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

SIMD_INLINE Vec load_lanes(const float* p, int64_t left) {
  return left >= kWidth ? load(p) : load_part<Float32>(p, left);
}
SIMD_INLINE void store_some(float* p, Vec v, int64_t left) {
  left >= kWidth ? store(p, v) : store_part<Float32>(p, v, left);
}

SIMD_INLINE float total(Vec v) {
  float lanes[kWidth], sum = 0;
  store(lanes, v);
  for (int i = 0; i < kWidth; ++i) sum += lanes[i];
  return sum;
}

/// 1 / rms of the row.
SIMD_INLINE float scale_of(const float* x, int64_t channels, float eps) {
  Vec squares{};
  for (int64_t c = 0; c < channels; c += kWidth) {
    const Vec v = load_lanes(x + c, channels - c);
    squares += v * v;
  }
  return 1.0f / __builtin_sqrtf(total(squares) / (float)channels + eps);
}

/// activation'(z)
SIMD_INLINE Vec slope(Activation activation, Vec z) {
  if (activation == Activation::relu) return select(z > 0.0f, splat(1.0f), Vec{});
  if (activation == Activation::none) return splat(1.0f);
  const Vec sigmoid = 1.0f / (1.0f + exp(-z));
  return sigmoid * (1.0f + z * (1.0f - sigmoid));
}

}  // namespace

void rms_norm(const NormRows& rows, float* out) {
  const int64_t n = rows.channels;
  const float* x = rows.x;
  for (int64_t r = 0; r < rows.rows; ++r, x += rows.x_stride, out += n) {
    const float scale = scale_of(x, n, rows.eps);
    for (int64_t c = 0; c < n; c += kWidth) {
      const Vec z = load_lanes(x + c, n - c) * scale * load_lanes(rows.weight + c, n - c);
      store_some(out + c, activate(rows.activation, z), n - c);
    }
  }
}

void rms_norm_gradient(const NormRows& rows, const float* dy, int64_t dy_stride, float* dx, float* dw) {
  const int64_t n = rows.channels;
  const float* x = rows.x;
  for (int64_t r = 0; r < rows.rows; ++r, x += rows.x_stride, dy += dy_stride, dx += n) {
    const float scale = scale_of(x, n, rows.eps);
    Vec products{};
    for (int64_t c = 0; c < n; c += kWidth) {
      const Vec normal = load_lanes(x + c, n - c) * scale, w = load_lanes(rows.weight + c, n - c);
      const Vec g = load_lanes(dy + c, n - c) * slope(rows.activation, normal * w);
      store_some(dw + c, load_lanes(dw + c, n - c) + g * normal, n - c);
      store_some(dx + c, g * w, n - c);
      products += g * w * normal;
    }
    const float mean = total(products) / (float)n;
    for (int64_t c = 0; c < n; c += kWidth) {
      const Vec normal = load_lanes(x + c, n - c) * scale;
      store_some(dx + c, (load_lanes(dx + c, n - c) - normal * mean) * scale, n - c);
    }
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
