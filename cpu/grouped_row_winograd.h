#pragma once

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// A grouped convolution with a 3x3 kernel by F(4, 3) along the width and the taps along the height.
void grouped_row_winograd(const ConvProblem& problem, const GroupedWinogradPlan& plan,
                          const Operands& operands, Workspace& workspace);

}  // namespace mlx_conv3d::cpu
