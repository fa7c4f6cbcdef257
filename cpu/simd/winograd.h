#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void winograd_input(int m, Dtype type, const WinogradInputTile& tile);
void winograd_output(int m, const WinogradOutputTile& tile);
void winograd_weight(int m, const WinogradWeightPanel& panel);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
