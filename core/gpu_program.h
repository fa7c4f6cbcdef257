#pragma once

#include <memory>
#include <vector>

#include "core/plan.h"
#include "metal/lower.h"
#include "mlx/mlx.h"

namespace mlx_conv3d {

namespace mx = mlx::core;

/// How the inputs of a Conv primitive lie in memory.
metal::Layout layout_of(const ConvProblem& problem, const std::vector<mx::array>& inputs);

/// Encodes a convolution of a Conv primitive's inputs, from within its eval_gpu: the algorithm's Program for
/// these sizes and strides, remembered. Throws where the workspace limit has been lowered so far that none
/// fits.
void run_on_gpu(const ConvProblem& problem, Algorithm algorithm, const std::vector<mx::array>& inputs,
                const mx::array& out, mx::Stream stream);
/// With a plan of its own.
void run_on_gpu(const ConvProblem& problem, const Candidate& candidate, const std::vector<mx::array>& inputs,
                const mx::array& out, mx::Stream stream);

}  // namespace mlx_conv3d
