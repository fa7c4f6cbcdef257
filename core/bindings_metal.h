#pragma once

#include <nanobind/nanobind.h>

#include "core/plan.h"

namespace mlx_conv3d {

/// The Program of a candidate as dicts; None where Metal leaves it to stock MLX.
nanobind::object program_dict(const ConvProblem& problem, const Candidate& candidate);

/// The table of Apple GPUs, and the Metal sources.
void bind_metal(nanobind::module_& m);

}  // namespace mlx_conv3d
