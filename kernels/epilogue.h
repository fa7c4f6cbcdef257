#pragma once

// y = activation(sum + bias) + residual, in fp32, rounded once.

#include "params.h"

constant bool has_bias [[function_constant(MLX_CONV3D_HAS_BIAS)]];
constant bool has_residual [[function_constant(MLX_CONV3D_HAS_RESIDUAL)]];
constant int activation [[function_constant(MLX_CONV3D_ACTIVATION)]];

/// The error function, which Metal lacks: minimax polynomials on either side of 0.9277, within 1 ulp (N. Juffa).
METAL_FUNC float error_function(float a) {
  float t = metal::fabs(a), s = a * a;
  if (t > 0.927734375f) {
    float r = metal::fma(-1.72853470e-5f, t, 3.83197126e-4f);
    float u = metal::fma(-3.88396438e-3f, t, 2.42546219e-2f);
    r = metal::fma(r, s, u);
    r = metal::fma(r, t, -1.06777877e-1f);
    r = metal::fma(r, t, -6.34846687e-1f);
    r = metal::fma(r, t, -1.28717512e-1f);
    r = metal::fma(r, t, -t);
    return metal::copysign(1.0f - metal::precise::exp(r), a);
  }
  float r = -5.96761703e-4f;
  r = metal::fma(r, s, 4.99119423e-3f);
  r = metal::fma(r, s, -2.67681349e-2f);
  r = metal::fma(r, s, 1.12819925e-1f);
  r = metal::fma(r, s, -3.76125336e-1f);
  r = metal::fma(r, s, 1.28379166e-1f);
  return metal::fma(r, a, a);
}

METAL_FUNC float activate(float v) {
  if (activation == 1) return metal::fmax(v, 0.0f);
  if (activation == 2) return v / (1.0f + metal::precise::exp(-v));
  if (activation == 3) return 0.5f * v * (1.0f + error_function(v * 0.70710678118654752f));
  if (activation == 4) return 1.0f / (1.0f + metal::precise::exp(-v));
  if (activation == 5) return metal::precise::tanh(v);
  return v;
}

/// Finishes the sum for element `offset` of y, in channel o.
template <typename T>
METAL_FUNC void finish(float sum, int o, int64_t offset, device T* y, const device float* bias,
                       const device T* residual) {
  if (has_bias) sum += bias[o];
  sum = activate(sum);
  if (has_residual) sum += float(residual[offset]);
  y[offset] = T(sum);
}
