#pragma once

// The weights' sizes as function constants, so that loops over them are unrolled and divisions by them
// multiply.

#include "params.h"

constant int channels [[function_constant(MLX_CONV3D_CHANNELS)]];
constant int outputs [[function_constant(MLX_CONV3D_OUTPUTS)]];
constant int kernel_d [[function_constant(MLX_CONV3D_KERNEL_D)]];
constant int kernel_h [[function_constant(MLX_CONV3D_KERNEL_H)]];
constant int kernel_w [[function_constant(MLX_CONV3D_KERNEL_W)]];
