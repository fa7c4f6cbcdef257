#pragma once

#include <memory>
#include <optional>
#include <string>

#include "core/plan.h"
#include "core/self_check.h"
#include "mlx/mlx.h"

namespace mlx_conv3d {

namespace mx = mlx::core;

/// Who does a convolution on a stream: the Conv primitive with an algorithm, or stock MLX for a reason.
struct Route {
  std::shared_ptr<const Plan> plan;  ///< null for stock where nothing was planned
  std::string reason;                ///< why stock MLX does it; empty where it does not

  bool stock() const { return plan == nullptr || plan->algorithm() == Algorithm::stock; }
};

/// Throws std::invalid_argument where `forced` cannot run the problem. On a GPU the kernels that the plan
/// needs are checked at their first use, so call it while a graph is built, not while it is evaluated.
Route route(const ConvProblem& problem, std::optional<Algorithm> forced, mx::StreamOrDevice s);

/// The same for any GPU, whose kernels are those that `checks` passes.
Route gpu_route(const ConvProblem& problem, std::optional<Algorithm> forced, Device device,
                SelfChecks& checks);

}  // namespace mlx_conv3d
