#pragma once

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

void winograd(const ConvProblem& problem, const WinogradPlan& plan, const Operands& operands,
              Workspace& workspace);

/// Transforms (O, KD, K, K, C) weights, K being `side`, to the layout that `winograd` multiplies with:
/// [product][panel][terms along depth * C][lanes].
void winograd_weights(WinogradForm form, const WeightView& w, int64_t out_channels, int64_t depth_taps,
                      int64_t side, int64_t channels, bool flip, float* out);
/// Floats that winograd_weights writes.
int64_t winograd_weights_size(WinogradForm form, int64_t out_channels, int64_t depth_taps, int64_t channels);

}  // namespace mlx_conv3d::cpu
