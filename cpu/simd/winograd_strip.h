#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void winograd_strip_input(WinogradForm form, Dtype type, const WinogradStripInput& strip);
void winograd_strip_output(WinogradForm form, const WinogradStripOutput& strip);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
