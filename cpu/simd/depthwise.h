#pragma once

#include "cpu/simd/convert.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

DepthwiseFunction depthwise_function(int64_t side, int64_t stride, int64_t input_dilation, Dtype type);

DepthwiseGradientFunction depthwise_gradient_function(int64_t side, int64_t stride, Dtype x_type);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
