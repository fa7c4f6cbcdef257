#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void winograd_group(WinogradForm form, const WinogradGroup& group);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
