// What Winograd's Programs need before they are made: which depth tiles fit, blocks, FLOPs of the transforms,
// and scratch. The planner asks for these of every plan that it weighs.

#include <algorithm>

#include "metal/lower.h"
#include "metal/winograd_flops.h"

namespace mlx_conv3d::metal {

int64_t winograd_tile_pitch(int64_t channels) { return round_up(channels, MLX_CONV3D_GEMM_DEPTH); }

std::string depth_tile_obstacle(const ConvProblem& p, const WinogradPlan& plan) {
  const bool flat = p.kernel[kHeight] == 1;
  if (plan.along_depth() != flat)
    return flat ? "a 3x1x1 kernel has tiles of one position" : "tiles are 2, 4 or 6";
  if (flat && plan.weight_rows > 0) return "a 3x1x1 kernel has its weights made at once";
  if (plan.weight_outs > 0 && plan.weight_rows == 0)
    return "outputs whose weights are made at a time need passes";
  if (plan.float24 && (flat || !takes_float24(p))) return "24 bits are for bf16 results of 3x3 kernels";
  if (plan.fused && !flat) return "only a 3x1x1 kernel has its transforms in the product";
  if (plan.fused && !fuses_transforms(p)) return "the product has transforms for 16-bit operands and results";
  if (plan.depth_m == 1 && !flat) return "";
  if (plan.depth_m != 2 && !(flat && (plan.depth_m == 4 || plan.depth_m == 6))) {
    return flat ? "it is 2, 4 or 6" : "it is 1 or 2";
  }
  if (p.kernel[kDepth] != 3) return "it needs three depth taps";
  if (p.stride[kDepth] != 1 || p.dilation[kDepth] != 1) return "it needs depth stride and dilation 1";
  return "";
}

bool fuses_transforms(const ConvProblem& p) {
  return p.kernel[kHeight] == 1 && p.x_type == p.out_type && p.out_type != Dtype::float32;
}

int64_t winograd_depth_values(const ConvProblem& p, const WinogradPlan& plan) {
  return plan.along_depth() ? 1 : winograd_depth_terms(p.kernel[kDepth], plan.depth_m);
}

int64_t winograd_tile_frames(const ConvProblem& p, const WinogradPlan& plan, int64_t frames) {
  return plan.along_depth() ? divide_up(frames, plan.depth_m) : winograd_input_frames(p, frames);
}

TransformFlops winograd_transform_flops(const ConvProblem& p, const WinogradPlan& plan) {
  if (plan.along_depth()) {
    const WinogradFlops one = winograd_flops(plan.depth_m);
    return {1.0 * one.input, 1.0 * one.weight, 1.0 * one.output};
  }
  // Columns, then rows; of weights every depth value, of F(2, 3) along depth the 9 columns before.
  const WinogradFlops one = winograd_flops(plan.m);
  const int size = plan.m + 2;
  const double before = plan.depth_m > 1 ? 9.0 * winograd_flops(plan.depth_m).weight : 0;
  return {2.0 * size * one.input,
          (3.0 + size) * one.weight * static_cast<double>(winograd_depth_values(p, plan)) + before,
          1.0 * (size + plan.m) * one.output};
}

int64_t winograd_chunk_frames(const ConvProblem& p, const WinogradPlan& plan) {
  const int64_t frames = std::max<int64_t>(1, plan.frames / plan.depth_m) * plan.depth_m;
  return plan.frames >= p.output(kDepth) ? p.output(kDepth) : std::min(frames, p.output(kDepth));
}

GemmBlock winograd_block(const ConvProblem& p, const WinogradPlan& plan) {
  const bool pairs = winograd_planes(plan) > 1;
  const int64_t rows = divide_up(plan.frames, plan.depth_m) * plan.tiles;
  if (plan.fused) return {MLX_CONV3D_FRAMES_ROWS, MLX_CONV3D_FRAMES_COLS};
  GemmBlock best;
  best.blocked = p.out_type == Dtype::float32;
  best.rows = pairs || rows <= 32 ? 32 : 64;
  // The widest has 48 sums a thread: 64x96 for single frames, 32x96 for pairs. Totals take as many again.
  const bool widest = (pairs || best.rows == 64) && !best.blocked;
  const int64_t out_channels = winograd_held_outs(p, plan);
  // The widest block among those that waste fewest columns: it reads the tiles least often.
  int64_t columns = 0;
  for (int64_t cols : {96, 64, 32}) {
    if (cols == 96 && !widest) continue;
    const int64_t padded = round_up(out_channels, cols);
    if (columns == 0 || padded < columns) {
      columns = padded;
      best.cols = cols;
    }
  }
  // As many sums as 32x96.
  if (pairs && best.cols == 64 && !best.blocked && rows > 32) best.rows = 48;
  return best;
}

double flops_per_byte(const GemmBlock& block, const WinogradPlan& plan) {
  const double rows = static_cast<double>(block.rows), cols = static_cast<double>(block.cols);
  // Per product staged; an input of a pair is a sum of two.
  const double row_bytes = static_cast<double>(winograd_planes(plan) * winograd_value_bytes(plan));
  return 2 * rows * cols / (rows * row_bytes + 4 * cols);
}

double winograd_staging_flops(const WinogradPlan& plan) {
  const int64_t planes = winograd_planes(plan);
  return static_cast<double>(2 * (planes - 1) + (plan.float24 ? 4 * planes : 0));
}

double fused_flops_per_byte(const ConvProblem& p, const WinogradPlan& plan) {
  const GemmBlock block = winograd_block(p, plan);
  return 2.0 * static_cast<double>(block.rows * block.cols) /
         static_cast<double>(item_size(p.x_type) * block.rows + 4 * block.cols);
}

WinogradScratch winograd_scratch(const ConvProblem& p, const WinogradPlan& plan) {
  const int64_t frequencies = winograd_frequencies(plan), pitch = winograd_tile_pitch(p.in_channels);
  const int64_t frames = winograd_chunk_frames(p, plan);
  const int64_t rows = divide_up(frames, plan.depth_m) * plan.tiles;
  const GemmBlock block = winograd_block(p, plan);
  const int64_t held_outs = winograd_held_outs(p, plan);
  const int64_t out_pitch = round_up(held_outs, block.cols);
  // One pass leaves finished products, which the next outputs' replace.
  const int64_t out_sets =
      winograd_passes(plan) == 1 ? 1 : divide_up(std::min(plan.out_slice, p.out_channels), held_outs);
  WinogradScratch s;
  const int64_t held =
      plan.weight_rows == 0 ? frequencies : std::min(frequencies, int64_t{plan.weight_rows} * (plan.m + 2));
  s.weights = 4 * held * winograd_depth_values(p, plan) * pitch * out_pitch;
  if (plan.fused) return s;
  s.tiles = winograd_value_bytes(plan) * (plan.tile_rows ? held : frequencies) *
            winograd_tile_frames(p, plan, frames) * plan.tiles * pitch;
  s.products = winograd_value_bytes(plan) * frequencies * winograd_planes(plan) * round_up(rows, block.rows) *
               out_pitch * out_sets;
  return s;
}

}  // namespace mlx_conv3d::metal
