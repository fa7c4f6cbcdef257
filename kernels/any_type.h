#pragma once

// Arrays whose element type is a function constant, numbered as Dtype in core/problem.h: one kernel serves
// every combination of types, and the compiler keeps the one that a pipeline is made for.

#include "params.h"

constant int x_type [[function_constant(MLX_CONV3D_X_TYPE)]];
constant int w_type [[function_constant(MLX_CONV3D_W_TYPE)]];
constant int y_type [[function_constant(MLX_CONV3D_Y_TYPE)]];

METAL_FUNC int item_size(int type) { return type == 0 ? 4 : 2; }

METAL_FUNC float element(const device char* data, int64_t i, int type) {
  if (type == 1) return float(((const device half*)data)[i]);
  if (type == 2) return float(((const device bfloat*)data)[i]);
  return ((const device float*)data)[i];
}
