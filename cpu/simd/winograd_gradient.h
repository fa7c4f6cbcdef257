#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void winograd_cotangent(WinogradForm form, Dtype type, const WinogradInputTile& tile);
void winograd_weight_gradient(WinogradForm form, const WinogradGradientRow& row);
void winograd_depth_cotangent(int64_t n, const float* even, const float* odd, float* sum, float* difference);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
