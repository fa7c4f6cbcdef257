#pragma once

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// A grouped convolution with a 3x3 kernel by Winograd's F(m, 3).
void grouped_winograd(const ConvProblem& problem, const GroupedWinogradPlan& plan, const Operands& operands,
                      Workspace& workspace);

}  // namespace mlx_conv3d::cpu
