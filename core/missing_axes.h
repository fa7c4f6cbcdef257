#pragma once

#include <vector>

#include "mlx/mlx.h"

namespace mlx_conv3d {

namespace mx = mlx::core;

/// The axes of (N, D, H, W, C), in ascending order, that arrays of fewer spatial axes are without; the
/// weights (O, KD, KH, KW, C/groups) lack the same ones.
using MissingAxes = std::vector<int>;

inline mx::Shape lifted(mx::Shape shape, const MissingAxes& missing) {
  for (int axis : missing) shape.insert(shape.begin() + axis, 1);
  return shape;
}

inline mx::Shape lowered(mx::Shape shape, const MissingAxes& missing) {
  for (auto axis = missing.rbegin(); axis != missing.rend(); ++axis) shape.erase(shape.begin() + *axis);
  return shape;
}

inline mx::array lift(const mx::array& a, const MissingAxes& missing, mx::StreamOrDevice s) {
  return missing.empty() ? a : mx::expand_dims(a, missing, s);
}

inline mx::array lower(const mx::array& a, const MissingAxes& missing, mx::StreamOrDevice s) {
  return missing.empty() ? a : mx::squeeze(a, missing, s);
}

}  // namespace mlx_conv3d
