#pragma once

#include "core/problem.h"
#include "cpu/geometry.h"

namespace mlx_conv3d::cpu {

/// RMS norm of the last axis of x (N, D, H, W, C), with an activation: activation(x / rms(x) * weight).
struct NormProblem {
  int64_t shape[5] = {1, 1, 1, 1, 1};
  float eps = 0;
  Activation activation = Activation::none;
  Dtype x_type = Dtype::float32;
  Dtype y_type = Dtype::float32;  ///< of dL/dy too

  int64_t lines() const { return shape[0] * shape[1] * shape[2]; }
};

/// y is contiguous.
void rms_norm(const NormProblem& problem, const TensorView& x, const float* weight, void* y);
/// dx (of x's type) is contiguous; dw has C floats.
void rms_norm_gradient(const NormProblem& problem, const TensorView& x, const float* weight,
                       const TensorView& dy, void* dx, float* dw);

}  // namespace mlx_conv3d::cpu
