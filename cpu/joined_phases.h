#pragma once

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// A transposed convolution whose kernel is as large as its stride (is_one_tap_per_output): every input pixel
/// makes an output of each phase, so a task multiplies its pixels with the weights of all taps.
void joined_phases(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands,
                   Workspace& workspace);

}  // namespace mlx_conv3d::cpu
