#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void winograd_input(WinogradForm form, Dtype type, const WinogradInputTile& tile);
void winograd_output(WinogradForm form, const WinogradOutputTile& tile);
void winograd_weight(WinogradForm form, const WinogradWeightPanel& panel);
void winograd_depth_input(bool has_first, bool has_last, int64_t n, const float* in, int64_t frame_stride,
                          float* out, int64_t out_stride);
void winograd_depth_butterfly(int64_t rows, int64_t n, float* even, int64_t even_stride, float* odd,
                              int64_t odd_stride);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
