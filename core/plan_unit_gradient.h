#pragma once

#include "core/device.h"
#include "core/problem.h"

namespace mlx_conv3d {

/// How dL/dw of grouped convolutions is walked whose outputs fill vectors group by group
/// (cpu/unit_gradient.h). A unit is a group, or as many as fill a vector.
struct UnitGradientPlan {
  int woven = 0;               ///< groups of a unit; 0: not used
  int64_t units = 0;           ///< of a task
  int64_t band = 0, cols = 0;  ///< output rows, and columns of these, whose products are summed at a time
  int64_t splits = 1;          ///< parts of the bands, whose sums are added at the end
};

/// Floats of a thread's buffers.
struct UnitGradientSizes {
  UnitGradientSizes(const ConvProblem& problem, const UnitGradientPlan& plan, int vector_width);

  int64_t unit_sums() const { return products * lanes; }
  int64_t inputs() const { return rows * row; }
  int64_t cotangents() const { return dy_row * band; }

  const int64_t pixel, lanes;  ///< inputs and outputs of a unit
  const int64_t products;      ///< of an output: taps * C/groups
  const int64_t band, rows;    ///< output rows, and the input rows that they meet
  const int64_t row, dy_row;   ///< floats of one
};

/// Bands of all frames, each in pieces of columns.
int64_t unit_gradient_bands(const ConvProblem& problem, const UnitGradientPlan& plan);

/// Pure. `woven` is 0 where it is not for the problem.
UnitGradientPlan make_unit_gradient_plan(const ConvProblem& problem, const Device& device);
int64_t unit_gradient_workspace(const ConvProblem& problem, const Device& device,
                                const UnitGradientPlan& plan);

}  // namespace mlx_conv3d
