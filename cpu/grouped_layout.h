#pragma once

#include <vector>

#include "core/winograd_form.h"
#include "cpu/simd/kernels.h"

namespace mlx_conv3d::cpu {

/// What the cores' second-level caches hold of pixels and results from call to call.
constexpr double kKeptBytes = 2e6;

/// Bytes from a row's start to each column that its tiles meet, or kNoColumn.
std::vector<int64_t> winograd_columns(const ConvProblem& problem, const WinogradForm& form,
                                      int64_t col_stride);

/// The vectors of a set (see GroupedRows), with their places in the set's inputs and outputs as they lie in
/// memory. Where a set is one position the last vector ends where the position does, so it may begin within
/// the one before it.
std::vector<GroupedVector> grouped_vectors(int64_t out_channels, int64_t group_in, int64_t group_out,
                                           int vector_width);

/// Of blocks that are woven (PixelBlocks), with `groups` groups to a vector: which channel of the block is at
/// each place, and which of a vector's channels each lane has.
std::vector<int32_t> woven_order(int64_t group_channels, int64_t groups, int64_t places);

}  // namespace mlx_conv3d::cpu
