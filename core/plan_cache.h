#pragma once

#include <memory>

#include "core/plan.h"

namespace mlx_conv3d {

/// make_plan for this machine's CPU and the limit in force, remembered per problem: planning takes longer
/// than a small convolution does. Safe to call from any thread.
std::shared_ptr<const Plan> cpu_plan(const ConvProblem& problem, std::optional<Algorithm> forced);

/// Whether the plan multiplies with weights of this form.
inline bool uses_packed_weights(const Plan& plan, const WinogradForm& form) {
  const WinogradPlan& winograd = plan.chosen.winograd;
  return plan.algorithm() == Algorithm::winograd && WinogradForm{winograd.m, winograd.depth_m} == form;
}

}  // namespace mlx_conv3d
