#pragma once

#include "core/plan.h"

namespace mlx_conv3d {

/// Fills in a legal candidate's sizes and modelled cost on an Apple GPU, or says why it is not legal there.
void consider_gpu(const ConvProblem& problem, const Device& device, int64_t limit, Candidate& candidate);
void consider_gpu_winograd(const ConvProblem& problem, const Device& device, int64_t limit,
                           Candidate& candidate);
/// pointwise, temporal, patchify, taps, transposed, implicit_gemm, and grouped with many channels per group.
void consider_gpu_gemm(const ConvProblem& problem, const Device& device, int64_t limit, Candidate& candidate);

}  // namespace mlx_conv3d
