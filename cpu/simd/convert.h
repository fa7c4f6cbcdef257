#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

/// Not inlined: a branch per vector is cheaper than four copies of every output loop.
Vec activate_curved(Activation activation, Vec v);

SIMD_INLINE Vec activate(Activation activation, Vec v) {
  if (activation == Activation::none) return v;
  if (activation == Activation::relu) return select(v < 0.0f, Vec{}, v);
  return activate_curved(activation, v);
}

/// Chooses `f<T>(...)` by a run-time element type.
#define SIMD_BY_TYPE(type, f, ...) \
  switch (type) {                  \
    case Dtype::float32:           \
      f<Float32>(__VA_ARGS__);     \
      break;                       \
    case Dtype::float16:           \
      f<Float16>(__VA_ARGS__);     \
      break;                       \
    case Dtype::bfloat16:          \
      f<BFloat16>(__VA_ARGS__);    \
      break;                       \
  }

/// One vector of sums, of output channels `channel`..., through the epilogue; n <= kWidth lanes exist.
/// `bias` and `residual` point at the lanes' first element, or are null.
template <class T>
SIMD_INLINE void store_lanes(Vec sums, Activation activation, const float* bias,
                             const typename T::Item* residual, typename T::Item* dst, int64_t n) {
  if (n >= kWidth) {
    if (bias) sums += load(bias);
    sums = activate(activation, sums);
    if (residual) sums += T::load(residual);
    T::store(dst, sums);
  } else {
    if (bias) sums += load_part<Float32>(bias, n);
    sums = activate(activation, sums);
    if (residual) sums += load_part<T>(residual, n);
    store_part<T>(dst, sums, n);
  }
}

void to_float(Dtype from, const void* src, float* dst, int64_t n);
void store_row(const Epilogue& epilogue, const float* sums, int64_t channel, int64_t offset, void* dst,
               int64_t n);
void store_rows(const Epilogue& epilogue, const ResultRows& rows);
void add(const float* src, float* dst, int64_t n);
void pack_weight(const GemmWeightPanel& panel);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
