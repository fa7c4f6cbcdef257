#pragma once

#include <cstdint>

#include "cpu/geometry.h"

namespace mlx_conv3d::cpu {

/// A copy of the last `kept` frames of those of `lead` followed by those of x, to contiguous (N, kept, H, W,
/// C).
struct LastFrames {
  LastFrames(const ConvProblem& problem, const Operands& operands, int64_t kept, void* to);

  void copy() const;

 private:
  void copy_frames(const TensorView& from, int64_t n, int64_t first, int64_t count, char* to) const;

  const TensorView x_, lead_;
  const int64_t batch_, lead_frames_, frames_, kept_;
  const int64_t rows_, cols_, pixel_, item_;  ///< pixel_ in bytes
  char* const to_;
};

}  // namespace mlx_conv3d::cpu
