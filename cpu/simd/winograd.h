#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void winograd_input(WinogradForm form, Dtype type, const WinogradInputTile& tile);
void winograd_output(WinogradForm form, const WinogradOutputTile& tile);
void winograd_weight(WinogradForm form, const WinogradWeightPanel& panel);
void winograd_depth_input(int frames, int64_t n, const float* in, int64_t frame_stride, float* out,
                          int64_t out_stride);
void winograd_depth_butterfly(int64_t rows, int64_t n, float* even, float* odd, int64_t stride);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
