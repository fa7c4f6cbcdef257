#pragma once

// The model of time on Apple GPUs. Nothing here was measured by this project: the constants come from
// published timings of stock MLX and of hand-written Metal matrix products; docs/metal.md has formulas and
// sources.

#include <algorithm>
#include <cmath>

#include "core/integers.h"
#include "core/plan.h"
#include "kernels/params.h"

namespace mlx_conv3d::gpu {

// Fitted to stock's three published M3 Max times: the share of the peak that its matrix products reach, the
// share of the nominal bandwidth, and how far the two overlap.
constexpr double kStockProductShare = 0.80, kStockImplicitShare = 0.70;
constexpr double kBandwidthShare = 0.83, kOverlap = 0.91;
// fp32 simdgroup_matrix products on an M1 Max of 10.6 TFLOP/s reach 7.0 to 9.3 from 512 x 512 x 512 on with
// blocks of 32x32 to 48x48, which do 8 to 12 FLOPs per byte loaded (philipturner, metal-flash-attention).
constexpr double kProductShare = 0.75, kLeanProductShare = 0.70;
constexpr double kRichFlopsPerByte = 9.6, kLeanFlopsPerByte = 8;
// Assumed: what choosing a plan adds for memory traffic, as a share of its time. It costs energy, and the CPU
// has the same memory.
constexpr double kTrafficWeight = 0.3;
constexpr double kTransformShare = 0.5;  ///< assumed: straight-line multiply-adds and adds
constexpr double kCacheSpeed = 2;        ///< assumed: the system-level cache against memory
constexpr double kCacheShare = 0.75;     ///< of the system-level cache that a chunk may fill
constexpr double kDirectShare = 0.10;    ///< assumed: direct kernels, which share no operand between threads
// Assumed: products whose operands are gathered reach less than stock's implicit GEMM, and a tenth more time
// for what is not known yet, so that stock keeps what it does about as well.
constexpr double kGatherShare = 0.62, kUnmeasured = 1.1;
// Bytes that a core moves between registers, threadgroup memory and cache in the time of a FLOP: what 0.70 of
// the peak with 32x32 blocks of fp32 takes.
constexpr double kCoreBytesPerFlop = 0.35;
constexpr double kStepSeconds = 3e-6;  ///< assumed: a dispatch behind a barrier

/// The share of the peak that blocks with so many FLOPs per byte loaded reach.
inline double product_share(double flops_per_byte) {
  if (flops_per_byte >= kRichFlopsPerByte) return kProductShare;
  return kLeanProductShare * std::min(1.0, flops_per_byte / kLeanFlopsPerByte);
}
inline double transfer_seconds(double bytes, const Device& d) {
  return bytes / (d.gbytes * 1e9 * kBandwidthShare);
}
inline double seconds(double product_seconds, double bytes, const Device& d) {
  return (product_seconds + transfer_seconds(bytes, d)) * kOverlap;
}
constexpr int64_t kSlab = MLX_CONV3D_GEMM_DEPTH;  ///< products that a gathered product stages at a time
constexpr int64_t kMostPasses = 1024;             ///< of one convolution, each a dispatch

/// The share of the peak to which a core's own memory bounds a product in blocks of 4 simdgroups, `across` of
/// them side by side: per product of the inner axis the block's operands are loaded, staged, and read by each
/// simdgroup as 8x8 matrices. Bytes of an element as loaded, and as staged.
inline double core_share(int64_t rows, int64_t cols, int64_t across, int64_t loaded, int64_t staged) {
  const int64_t read = 4 * (rows * across / 4 + cols / across);
  const double bytes = static_cast<double>((rows + cols) * (loaded + staged) + read * staged);
  return 2.0 * static_cast<double>(rows * cols) * kCoreBytesPerFlop / bytes;
}
/// Threadgroups that do not fill the cores, two on each, leave them idle.
inline double busy_share(double threadgroups, const Device& d) {
  const double waves = std::ceil(std::max(1.0, threadgroups) / (2.0 * d.cores));
  return std::max(1.0, threadgroups) / (waves * 2.0 * d.cores);
}
/// Of the cores' own units, per second.
inline double peak_flops(const Device& d) { return d.gflops * 1e9; }

}  // namespace mlx_conv3d::gpu
