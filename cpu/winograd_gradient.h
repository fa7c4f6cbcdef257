#pragma once

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

void winograd_weight_gradient(const ConvProblem& problem, const WeightGradientPlan& plan,
                              const Operands& operands, Dtype dy_type, const void* dy, void* dw,
                              Workspace& workspace);

}  // namespace mlx_conv3d::cpu
