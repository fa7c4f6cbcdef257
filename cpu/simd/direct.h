#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void direct(Dtype type, const DirectRow& row);
void direct_gradient(Dtype type, const DirectRow& row, const float* dy, float* sums);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
