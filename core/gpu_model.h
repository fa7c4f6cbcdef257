#pragma once

// The model of time on Apple GPUs. Nothing here was measured by this project: the constants come from
// published timings of stock MLX and of hand-written Metal matrix products; docs/metal.md has formulas and
// sources.

#include "core/plan.h"

namespace mlx_conv3d::gpu {

// Fitted to stock's three published M3 Max times: the share of the peak that its matrix products reach, the
// share of the nominal bandwidth, and how far the two overlap.
constexpr double kStockProductShare = 0.80, kStockImplicitShare = 0.70;
constexpr double kBandwidthShare = 0.83, kOverlap = 0.91;
// fp32 simdgroup_matrix products on an M1 Max of 10.6 TFLOP/s (philipturner, metal-flash-attention): 8.2
// to 9.3 TFLOP/s with 48x48 blocks, which do 12 FLOPs per byte loaded; 7.0 to 7.7 with 32x32 blocks, which
// do 8.
constexpr double kProductShare = 0.75, kLeanProductShare = 0.70;
constexpr double kRichFlopsPerByte = 9.6;
// Assumed: what choosing a plan adds for memory traffic, as a share of its time. It costs energy, and the CPU
// has the same memory.
constexpr double kTrafficWeight = 0.3;
constexpr double kTransformShare = 0.5;  ///< assumed: straight-line multiply-adds and adds
constexpr double kCacheSpeed = 2;        ///< assumed: the system-level cache against memory
constexpr double kCacheShare = 0.75;     ///< of the system-level cache that a chunk may fill
constexpr double kDirectShare = 0.10;    ///< assumed: direct kernels, which share no operand between threads
constexpr double kStepSeconds = 3e-6;    ///< assumed: a dispatch behind a barrier

/// The share of the peak that blocks with so many FLOPs per byte loaded reach.
inline double product_share(double flops_per_byte) {
  return flops_per_byte >= kRichFlopsPerByte ? kProductShare : kLeanProductShare;
}
inline double transfer_seconds(double bytes, const Device& d) {
  return bytes / (d.gbytes * 1e9 * kBandwidthShare);
}
inline double seconds(double product_seconds, double bytes, const Device& d) {
  return (product_seconds + transfer_seconds(bytes, d)) * kOverlap;
}
/// Of the cores' own units, per second.
inline double peak_flops(const Device& d) { return d.gflops * 1e9; }

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

}  // namespace mlx_conv3d::gpu
