#pragma once

#include "cpu/simd/tile_kernels.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

uint32_t winograd_input_parts(WinogradForm form, Dtype type, const WinogradInputTile& tile,
                              const TileParts& parts);
void winograd_depth_parts(bool has_first, bool has_last, int64_t n, const float* in, int64_t frame_stride,
                          uint16_t* out, int64_t out_stride, const TileParts& parts);
uint32_t winograd_weight_parts(WinogradForm form, const WinogradWeightPanel& panel, const TileParts& parts);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
