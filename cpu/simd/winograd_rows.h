#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void winograd_row_pixels(Dtype type, const WinogradRowPixels& pixels);
void winograd_rows(const WinogradRows& rows);
void winograd_row_results(const WinogradRowResults& results);
void winograd_row_weight(const WinogradWeightPanel& panel);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
