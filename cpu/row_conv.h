#pragma once

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// Direct convolution by a plan that buffers rows: a task's input rows are copied once, as floats and with
/// their padding, and every tap's products read them there; rows that lie in the input like that are read
/// where they are.
void row_conv(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands,
              Workspace& workspace);

}  // namespace mlx_conv3d::cpu
