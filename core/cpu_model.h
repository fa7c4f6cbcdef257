#pragma once

// The model of time on a CPU, and what its plans share.

#include <algorithm>
#include <cstdio>
#include <string>

#include "core/integers.h"
#include "core/plan.h"

namespace mlx_conv3d::cpu_model {

// Measured on AVX-512: the share of the multiply-add peak that the transform-domain products reach, and the
// transforms' speed per thread in floats written. Machines scale with `gflops`, from a core's kCoreFlops.
constexpr double kCoreFlops = 135e9;
constexpr double kProductShare = 0.80, kGatherShare = 0.75;
constexpr double kTransformFloats = 1.6e9, kLineFloats = 3.0e9, kDepthFloats = 6.0e9, kWeightFloats = 1.8e9;
/// Of transformed tiles and sums that lie beyond the core's own cache, floats per second and thread (of sums,
/// also where results are written panel by panel); of weights that each chunk reads again, bytes from memory,
/// and how many times as many from the last cache.
constexpr double kSharedInputs = 0.9e9, kSharedSums = 8e9;
constexpr double kWeightStream = 22e9, kKeptStream = 3;
/// A product's rows whose multiplications take as long as loading its weights, and as many that this is
/// little.
constexpr double kBlockRows = 1, kManyRows = 24;
/// The share of the peak where the weights are made panel by panel; the time of so many rows goes with a
/// panel's weights.
constexpr double kPanelShare = 0.80, kPanelRows = 4, kMadeFloats = 3.5e9;
constexpr double kStepSeconds = 4e-6;  ///< starting and joining one parallel loop

// The same of AMX, by the number of bf16 parts: its products, and per thread items packed into slabs, weights
// packed and results stored.
constexpr double kTileShare[] = {0, 0.50, 0.70, 0.75};
/// Of AVX512_BF16, two products in a lane; the time of so many outputs goes with the loads of their weights.
/// Results that they write from registers, and items of x that are looked at where they are.
constexpr double kPairShare = 0.82, kPairRows = 6, kPairResults = 8e9, kLookedItems = 12e9;
constexpr double kSlabItems[] = {0, 3.0e9, 2.0e9, 1.5e9}, kTileWeightItems[] = {0, 2.5e9, 1.6e9, 1.2e9};
constexpr double kOwnTileWeightItems[] = {0, 5e9, 3e9, 1.7e9};  ///< in a core's own cache
constexpr double kPixelItems[] = {0, 6.0e9, 4.5e9,
                                  3.5e9};  ///< slab items where there is a single tap: no halo
constexpr double kTileResults = 4.4e9;

// Of AMX under winograd: its products, by the number of parts, the transforms along depth and of weights per
// thread, and how many times the memory's bandwidth the cache has from which each block of rows reads the
// weights. A panel of one tile takes as long as one of two: loading the inputs does.
constexpr double kWinogradTileShare[] = {0, 0, 0.48, 0.55};
constexpr double kTileDepthFloats = 4.8e9, kTileWeightFloats = 1.4e9;
constexpr double kTileStream = 1.6;
constexpr double kPreparedStream = 1.5;           ///< the same of weights that were transformed in advance
constexpr double kKeptWeights = 16e6;             ///< bytes of these that the last cache has still
constexpr double kTileProducts[] = {0, 1, 3, 6};  ///< of parts that one product takes

/// Lanes of whole vectors that hold n channels, as the panels lay them out.
inline int64_t lanes(int64_t n, const Device& device) {
  return round_up(std::max<int64_t>(1, n), device.vector_width);
}

/// The transforms' speed: tiles along one axis have one direction to go through.
inline double transform_floats(const WinogradForm& form) {
  return form.directions() == 1 ? kLineFloats : kTransformFloats;
}

/// How fast a core is beside the one that was measured.
inline double core_scale(const Device& device) { return device.gflops * 1e9 / device.cores / kCoreFlops; }

/// Of a dilated input, how many phases the outputs have: only every so many-th tap meets an input.
inline double phases(const ConvProblem& p) {
  return static_cast<double>(p.input_dilation[0] * p.input_dilation[1] * p.input_dilation[2]);
}

inline void refuse(Candidate& candidate, int64_t limit) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f MiB", static_cast<double>(limit) / (1 << 20));
  candidate.legal = false;
  candidate.reason = std::string("its workspace does not fit the limit of ") + text;
}

}  // namespace mlx_conv3d::cpu_model
