#pragma once

#include "core/plan_unit_gradient.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// dL/dw of a grouped convolution whose outputs fill vectors group by group.
void unit_gradient(const ConvProblem& problem, const UnitGradientPlan& plan, const Operands& operands,
                   Dtype dy_type, const void* dy, void* dw, Workspace& workspace);

}  // namespace mlx_conv3d::cpu
