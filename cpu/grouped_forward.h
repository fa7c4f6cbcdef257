#pragma once

#include "core/plan_grouped.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// Grouped convolution by one of kGroupedKernels.
void grouped_by_kernel(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands,
                       Workspace& workspace);

}  // namespace mlx_conv3d::cpu
