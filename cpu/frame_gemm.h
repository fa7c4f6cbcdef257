#pragma once

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// Products over the positions of all frames as one long row (joined_frames.h), for kernels with taps along
/// depth only: every tap reads that row where it lies, and sums of up to plan.depth products stay in
/// registers. Frames of few positions, such as the samples of audio, have no rows of their own that a product
/// could read in place.
void frame_gemm(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands,
                Workspace& workspace);

}  // namespace mlx_conv3d::cpu
