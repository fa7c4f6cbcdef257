#pragma once

// The transforms of one axis of a tile, F(4, 3)'s by what the rows of its matrices have in common.

#include "core/winograd.h"
#include "cpu/simd/winograd_apply.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

template <class V>
SIMD_INLINE constexpr void factored_input(const V* d, V* out) {
  const V u = d[1] - d[3], v = d[2] - d[4];
  const V even = 3.0f * d[2] - 2.0f * u, odd = 3.0f * d[3] - 2.0f * v;
  out[0] = 2.0f * (d[0] - d[2] - v) - 3.0f * u;
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = 2.0f * u + v;
  out[4] = u - 2.0f * v;
  out[5] = 2.0f * (d[5] - d[3] + u) - 3.0f * v;
}

template <class V>
SIMD_INLINE constexpr void factored_output(const V* d, V* out) {
  const V sum = d[1] + d[2], difference = d[1] - d[2];
  out[0] = d[0] + sum + (d[3] + d[4]);
  out[1] = difference + 0.5f * d[3] - 2.0f * d[4];
  out[2] = sum + 0.25f * d[3] + 4.0f * d[4];
  out[3] = difference + 0.125f * d[3] - 8.0f * d[4] + d[5];
}

/// Of unit vectors they are the matrices' columns.
constexpr bool factors_are_right() {
  for (int column = 0; column < 6; ++column) {
    float unit[6] = {}, in[6] = {}, out[4] = {};
    unit[column] = 1.0f;
    factored_input(unit, in);
    factored_output(unit, out);
    for (int i = 0; i < 6; ++i) {
      if (in[i] != Winograd<4>::Bt[i][column] || (i < 4 && out[i] != Winograd<4>::At[i][column]))
        return false;
    }
  }
  return true;
}
static_assert(factors_are_right());

template <class Form>
SIMD_INLINE void transform_input(const Vec* d, Vec* out) {
  if constexpr (Form::outputs == 4) {
    factored_input(d, out);
  } else {
    apply<Form::pixels, Form::pixels, Form::Bt, 1, 1>(d, out);
  }
}

template <class Form>
SIMD_INLINE void transform_output(const Vec* d, Vec* out) {
  if constexpr (Form::outputs == 4) {
    factored_output(d, out);
  } else {
    apply<Form::outputs, Form::products, Form::At, 1, 1>(d, out);
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
