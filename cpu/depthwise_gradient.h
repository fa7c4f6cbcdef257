#pragma once

#include "core/plan_grouped.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// dL/dw of a depthwise convolution whose input is read where it lies (plan.vectors > 0).
void depthwise_gradient(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands,
                        Dtype dy_type, const void* dy, void* dw, Workspace& workspace);

}  // namespace mlx_conv3d::cpu
