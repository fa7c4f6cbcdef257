#pragma once

#include "cpu/simd/convert.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void unit_gradient(const UnitGradientRow& row);
void unit_gradient_results(Dtype type, const UnitGradientResults& results);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
