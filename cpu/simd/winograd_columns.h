#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void winograd_columns(WinogradForm form, Dtype type, const WinogradColumns& columns);
void winograd_results(WinogradForm form, const WinogradResults& results);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
