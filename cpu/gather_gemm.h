#pragma once

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// The engine of pointwise, temporal, patchify, taps, transposed, implicit_gemm and of grouped problems with
/// many channels per group: a blocked matrix product whose left operand is gathered from the input block by
/// block.
struct GatherGemmOptions {
  bool split_phases = false;             ///< one product per phase of the dilated input
  bool one_depth_tap_at_a_time = false;  ///< sums stay in memory between depth taps (taps)
};

void gather_gemm(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands,
                 const GatherGemmOptions& options, Workspace& workspace);

}  // namespace mlx_conv3d::cpu
