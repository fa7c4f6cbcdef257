#pragma once

#include <functional>

#include "core/plan.h"

namespace mlx_conv3d {

/// Fills in a legal candidate's sizes and modelled cost on a CPU, or says why it is not legal there. Given
/// `like`, the arithmetic is as there.
void consider_cpu(const ConvProblem& problem, const Device& device, int64_t limit, const Candidate* like,
                  Candidate& candidate);
/// Given `like`, sums are ordered as there.
void consider_cpu_winograd(const ConvProblem& problem, const Device& device, int64_t limit,
                           const WinogradPlan* like, Candidate& candidate);

/// Puts a legal candidate's products on the matrix unit, where there is one and that is faster, or `like` is
/// there.
void consider_cpu_tiles(const ConvProblem& problem, const Device& device, int64_t limit,
                        const Candidate* like, Candidate& candidate);

/// Tiles of all images, one at least: an empty problem is planned like one of a single tile, nothing will be
/// run.
int64_t winograd_tiles(const ConvProblem& problem, const WinogradForm& form);

/// How many tiles and frames are transformed and multiplied at a time.
struct WinogradChunk {
  int64_t tiles = 0, frames = 0;  ///< 0 where no chunk fits
};
/// A chunk of at most `room` bytes, `chunk_bytes(tiles, frames)` each.
WinogradChunk fit_winograd_chunk(int64_t tiles, int64_t frames, int depth_m, int64_t room,
                                 const std::function<int64_t(int64_t, int64_t)>& chunk_bytes);

}  // namespace mlx_conv3d
