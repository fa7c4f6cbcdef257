#pragma once

#include <memory>

#include "core/plan.h"

namespace mlx_conv3d {

/// make_plan for this machine's CPU and the limit in force, remembered per problem: planning takes longer
/// than a small convolution does. Safe to call from any thread.
std::shared_ptr<const Plan> cpu_plan(const ConvProblem& problem, std::optional<Algorithm> forced);
/// The same for a GPU.
std::shared_ptr<const Plan> gpu_plan(const ConvProblem& problem, const Device& device,
                                     std::optional<Algorithm> forced);

/// Whether the plan multiplies with weights transformed for this form.
inline bool uses_packed_weights(const Plan& plan, WinogradForm form) {
  const Candidate& chosen = plan.chosen;
  if (chosen.algorithm == Algorithm::grouped) return form.m > 0 && chosen.grouped_winograd.form() == form;
  return chosen.algorithm == Algorithm::winograd && chosen.winograd.form() == form;
}

}  // namespace mlx_conv3d
