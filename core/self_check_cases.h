#pragma once

#include <vector>

#include "core/kernel_family.h"
#include "core/primitive.h"
#include "mlx/mlx.h"

namespace mlx_conv3d {

namespace mx = mlx::core;

/// A tiny problem of the first-use checks, and a plan that runs a family's kernels on it.
struct SelfCheckCase {
  mx::Shape x, w;
  ConvSpec spec;
  ConvProblem problem;
  Candidate candidate;
};

/// What the check of a family with a type runs on a GPU: each algorithm that has the family's kernels, and of
/// winograd each tile in several chunks. Pure.
std::vector<SelfCheckCase> self_check_cases(KernelFamily family, Dtype dtype, const Device& gpu);

/// x, w and bias, the same values on every machine.
std::vector<mx::array> self_check_inputs(const SelfCheckCase& c);
/// What the CPU backend makes of them.
mx::array self_check_expected(const SelfCheckCase& c, const std::vector<mx::array>& inputs);

}  // namespace mlx_conv3d
