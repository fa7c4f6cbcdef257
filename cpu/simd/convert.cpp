// Between fp32 and the storage types, and the epilogue of a row of results.

#include "cpu/simd/convert.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <class T>
void widen(const void* src, float* dst, int64_t n) {
  const auto* from = static_cast<const typename T::Item*>(src);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(dst + i, T::load(from + i));
  if (i < n) store_part<Float32>(dst + i, load_part<T>(from + i, n - i), n - i);
}

/// n sums; `bias` and `residual` point at what belongs to the first, or are null.
template <class T>
SIMD_INLINE void finish(Activation activation, const float* sums, const float* bias,
                        const typename T::Item* residual, typename T::Item* to, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    store_lanes<T>(load(sums + i), activation, bias ? bias + i : nullptr, residual ? residual + i : nullptr,
                   to + i, kWidth);
  }
  if (i < n) {
    store_lanes<T>(load_part<Float32>(sums + i, n - i), activation, bias ? bias + i : nullptr,
                   residual ? residual + i : nullptr, to + i, n - i);
  }
}

template <class T>
void finish_row(const Epilogue& e, const float* sums, int64_t channel, int64_t offset, void* dst, int64_t n) {
  const auto* residual = static_cast<const typename T::Item*>(e.residual);
  finish<T>(e.activation, sums, e.bias ? e.bias + channel : nullptr, residual ? residual + offset : nullptr,
            static_cast<typename T::Item*>(dst), n);
}

template <class T>
void finish_rows(const Epilogue& e, const ResultRows& rows) {
  const auto* residual = static_cast<const typename T::Item*>(e.residual);
  auto* y = static_cast<typename T::Item*>(rows.y);
  const float* bias = e.bias ? e.bias + rows.channel : nullptr;
  for (int64_t r = 0; r < rows.rows; ++r) {
    const int64_t at = rows.offset + r * rows.offset_stride;
    finish<T>(e.activation, rows.sums + r * rows.sums_stride, bias, residual ? residual + at : nullptr,
              y + at, rows.n);
  }
}

/// Every offset counts: those of 4 taps and 4 channels, channels first, have neighbours' ends but another
/// order.
bool follow_each_other(const int64_t* offsets) {
  for (int i = 1; i < kWidth; ++i) {
    if (offsets[i] != offsets[0] + i) return false;
  }
  return true;
}

template <class T>
void pack(const GemmWeightPanel& panel) {
  const auto* w = static_cast<const typename T::Item*>(panel.w.data);
  const int64_t stride = panel.w.stride[0], pitch = panel.vectors * kWidth;
  for (int v = 0; v < panel.vectors; ++v) {
    const int64_t first = v * kWidth;
    const int64_t lanes = panel.out_channels - first < kWidth ? panel.out_channels - first : kWidth;
    const auto* from = w + first * stride;
    float* out = panel.out + first;
    for (int64_t k = 0; k < panel.k;) {
      if (stride != 1 && k + kWidth <= panel.k && follow_each_other(panel.offsets + k)) {
        Vec columns[kWidth];
        load_transposed<T>(from + panel.offsets[k], stride, lanes, columns);
        for (int i = 0; i < kWidth; ++i) store(out + (k + i) * pitch, columns[i]);
        k += kWidth;
      } else {
        store(out + k * pitch, gather<T>(from + panel.offsets[k], stride, lanes));
        ++k;
      }
    }
  }
}

}  // namespace

Vec activate_curved(Activation activation, Vec v) {
  // exp() ends at 2.4e38, which a huge v would divide to something.
  if (activation == Activation::silu) return select(v < -88.0f, Vec{}, v / (1.0f + exp(-v)));
  if (activation == Activation::sigmoid) return 1.0f / (1.0f + exp(-v));
  return activation == Activation::tanh ? tanh(v) : gelu(v);
}

void pack_weight(const GemmWeightPanel& panel) { SIMD_BY_TYPE(panel.w.type, pack, panel) }

void to_float(Dtype from, const void* src, float* dst, int64_t n) { SIMD_BY_TYPE(from, widen, src, dst, n) }

void store_row(const Epilogue& epilogue, const float* sums, int64_t channel, int64_t offset, void* dst,
               int64_t n) {
  SIMD_BY_TYPE(epilogue.type, finish_row, epilogue, sums, channel, offset, dst, n)
}

void store_rows(const Epilogue& epilogue, const ResultRows& rows) {
  SIMD_BY_TYPE(epilogue.type, finish_rows, epilogue, rows)
}

void add(const float* src, float* dst, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(dst + i, load(dst + i) + load(src + i));
  for (; i < n; ++i) dst[i] += src[i];
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
