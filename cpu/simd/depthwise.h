#pragma once

#include "cpu/simd/convert.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

DepthwiseFunction depthwise_function(int kernel, int64_t stride, Dtype type);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
