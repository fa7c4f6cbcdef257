#pragma once

#include "cpu/simd/tile_kernels.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

uint32_t split(const TileRows& rows);
uint32_t look(const TileRows& rows, bool whole);
uint32_t pack(const TileWeightPanel& panel);
void multiply(const TileProduct& product);
GroupedFunction grouped_pairs_function(int kernel);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
