#pragma once

#include "core/plan.h"

namespace mlx_conv3d {

/// Stock MLX's route for a convolution on Metal.
struct StockRoute {
  const char* name = "";
  double flops = 0;
  double bytes = 0;
  double seconds = 0;     ///< modelled
  int64_t workspace = 0;  ///< alive at once, modelled
};
/// The model's formula is in docs/metal.md.
StockRoute stock_route(const ConvProblem& problem, const Device& device);

}  // namespace mlx_conv3d
