#pragma once

#include "core/plan.h"

namespace mlx_conv3d {

/// Fills in a legal candidate's sizes and modelled cost on a CPU, or says why it is not legal there. Given
/// `like`, the arithmetic is as there.
void consider_cpu(const ConvProblem& problem, const Device& device, int64_t limit, const Candidate* like,
                  Candidate& candidate);
/// Of winograd's forms only `only` is considered, if its m is not 0.
void consider_cpu_winograd(const ConvProblem& problem, const Device& device, int64_t limit,
                           const WinogradForm& only, Candidate& candidate);

/// Puts a legal candidate's products on the matrix unit, where there is one and that is faster, or `like` is
/// there.
void consider_cpu_tiles(const ConvProblem& problem, const Device& device, int64_t limit,
                        const Candidate* like, Candidate& candidate);

}  // namespace mlx_conv3d
