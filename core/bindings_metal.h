#pragma once

#include <nanobind/nanobind.h>

#include <map>
#include <string>
#include <vector>

#include "core/plan.h"

namespace mlx_conv3d {

/// Strides in elements of x, lead (n, d, h, w, c) and w (o, d, h, w, c), by name.
using Strides = std::map<std::string, std::vector<int64_t>>;

/// The Program of a candidate as dicts; None where Metal leaves it to stock MLX. Operands that `strides` does
/// not name are row-major. Throws std::invalid_argument for other names, other than 5 strides, and negative
/// ones.
nanobind::object program_dict(const ConvProblem& problem, const Candidate& candidate, const Strides& strides);

/// The table of Apple GPUs, and the Metal sources.
void bind_metal(nanobind::module_& m);

}  // namespace mlx_conv3d
