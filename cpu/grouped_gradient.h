#pragma once

#include "core/plan_grouped.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// dL/dw of a grouped convolution by one of kGroupedKernels; see run_weight_gradient.
void grouped_gradient(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands,
                      Dtype dy_type, const void* dy, void* dw, Workspace& workspace);

}  // namespace mlx_conv3d::cpu
