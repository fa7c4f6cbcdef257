#pragma once

#include "core/device.h"
#include "core/plan.h"
#include "cpu/geometry.h"

namespace mlx_conv3d::cpu {

/// Computes the convolution as the plan says. Throws std::bad_alloc when the workspace cannot be had.
void run(const ConvProblem& problem, const Candidate& plan, const Operands& operands);

/// dL/dw of `problem` given dL/dy (contiguous, of `dy_type`): dw is (O, KD, KH, KW, C/groups), contiguous, of
/// `problem.w_type`. The operands' x and lead are read; the rest of them is ignored.
void run_weight_gradient(const ConvProblem& problem, const WeightGradientPlan& plan, const Operands& operands,
                         Dtype dy_type, const void* dy, void* dw);

/// This machine's CPU as the planner sees it.
Device describe();

/// Name of the instruction set in use, and threads.
const char* isa();
int threads();
void trim(int64_t bytes);

}  // namespace mlx_conv3d::cpu
