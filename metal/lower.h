#pragma once

#include <algorithm>

#include "core/plan.h"
#include "kernels/params.h"
#include "metal/program.h"

namespace mlx_conv3d::metal {

/// How the operands lie in memory, in elements. The output, the bias and the residual are row-major.
struct Layout {
  ArrayStrides x, lead;
  WeightStrides w;
};
Layout row_major(const ConvProblem& problem);

/// The steps of `candidate`, which make_plan() or the caller has sized for a GPU. Pure. No steps for an empty
/// output. Throws std::invalid_argument for stock, and for blocks that no kernel has.
Program lower(const ConvProblem& problem, const Candidate& candidate, const Layout& layout);
inline Program lower(const ConvProblem& problem, const Candidate& candidate) {
  return lower(problem, candidate, row_major(problem));
}

/// Rows and columns of the block that a threadgroup of a matrix multiplication computes.
struct GemmBlock {
  int64_t rows = 64, cols = 64;
  bool blocked = false;  ///< sums in blocks, for fp32 results
};
GemmBlock winograd_block(const ConvProblem& problem, const WinogradPlan& plan);

/// FLOPs of such a block's products per byte that it loads.
double flops_per_byte(const GemmBlock& block, const WinogradPlan& plan);

/// FLOPs for an input that such a block stages: of a pair the sum of two, of 24 bits two instructions each.
double winograd_staging_flops(const WinogradPlan& plan);

/// The same with the transforms in the product: the input is loaded as it is.
double fused_flops_per_byte(const ConvProblem& problem, const WinogradPlan& plan);

/// Whether kernels/grouped.metal has these types: the result's is what MLX promotes x and w to.
bool has_grouped_kernel(const ConvProblem& problem);

/// Why F(depth_m, 3) along depth cannot take a problem; empty if it can.
std::string depth_tile_obstacle(const ConvProblem& problem, const WinogradPlan& plan);
/// Whether the product of a 3x1x1 kernel has an instance with the transforms in it.
bool fuses_transforms(const ConvProblem& problem);
/// Whether 24 bits in the transform domain leave a result the rms error of its own rounding.
inline bool takes_float24(const ConvProblem& problem) { return problem.out_type == Dtype::bfloat16; }
/// Bytes of a tile's or a product's value in scratch.
inline int64_t winograd_value_bytes(const WinogradPlan& plan) { return plan.float24 ? 3 : 4; }
/// Products per tile, each with matrices of its own: (m + 2)^2, or depth_m + 2 along depth alone.
inline int64_t winograd_frequencies(const WinogradPlan& plan) {
  return plan.along_depth() ? plan.depth_m + 2 : (plan.m + 2) * (plan.m + 2);
}
/// Depth taps, or depth frequencies, that such a product sums over.
int64_t winograd_depth_values(const ConvProblem& problem, const WinogradPlan& plan);
/// Output frames whose sums such a product has, each in a plane of its own.
inline int64_t winograd_planes(const WinogradPlan& plan) { return plan.along_depth() ? 1 : plan.depth_m; }
/// Transformed frames behind `frames` output frames: input frames, or groups of depth_m output frames.
int64_t winograd_tile_frames(const ConvProblem& problem, const WinogradPlan& plan, int64_t frames);
/// Output frames in the largest chunk: with a depth tile whole tiles of them, but for the problem's last.
int64_t winograd_chunk_frames(const ConvProblem& problem, const WinogradPlan& plan);

/// FLOPs of the transforms: of a transformed tile's channel, of a pair of channels, of a tile's output
/// channel.
struct TransformFlops {
  double input, weight, output;
};
TransformFlops winograd_transform_flops(const ConvProblem& problem, const WinogradPlan& plan);

/// Channels from one transformed tile to the next.
int64_t winograd_tile_pitch(int64_t channels);

/// Output channels whose weights are held at a time.
inline int64_t winograd_held_outs(const ConvProblem& p, const WinogradPlan& plan) {
  const int64_t slice = std::min(plan.out_slice, p.out_channels);
  return plan.weight_outs == 0 ? slice : std::min(plan.weight_outs, slice);
}
/// Passes over the rows of frequencies that a chunk takes.
inline int64_t winograd_passes(const WinogradPlan& plan) {
  return plan.weight_rows == 0 ? 1 : divide_up(plan.m + 2, plan.weight_rows);
}

/// Scratch bytes of lower()'s Program for these chunks.
struct WinogradScratch {
  int64_t weights = 0, tiles = 0, products = 0;
  int64_t total() const { return weights + tiles + products; }
};
WinogradScratch winograd_scratch(const ConvProblem& problem, const WinogradPlan& plan);

}  // namespace mlx_conv3d::metal
