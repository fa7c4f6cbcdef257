#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void winograd_input(WinogradForm form, Dtype type, const WinogradInputTile& tile);
void winograd_output(WinogradForm form, const WinogradOutputTile& tile);
void winograd_weight(WinogradForm form, const WinogradWeightPanel& panel);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
