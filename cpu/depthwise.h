#pragma once

#include "core/plan_grouped.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// Depthwise convolution by one of kGroupedKernels that reads rows where they lie (plan.vectors > 0).
void depthwise_in_place(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands,
                        Workspace& workspace);

}  // namespace mlx_conv3d::cpu
