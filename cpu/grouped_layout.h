#pragma once

#include <vector>

#include "cpu/simd/kernels.h"

namespace mlx_conv3d::cpu {

/// The vectors of a set (see GroupedRows), with their places in the set's inputs and outputs as they lie in
/// memory. Where a set is one position the last vector ends where the position does, so it may begin within
/// the one before it.
std::vector<GroupedVector> grouped_vectors(int64_t out_channels, int64_t group_in, int64_t group_out,
                                           int vector_width);

}  // namespace mlx_conv3d::cpu
