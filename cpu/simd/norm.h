#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void rms_norm(const NormRows& rows, float* out);
void rms_norm_gradient(const NormRows& rows, const float* dy, int64_t dy_stride, float* dx, float* dw);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
