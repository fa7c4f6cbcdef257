// Winograd on Apple GPUs: what a chunk size costs, and the cheapest.

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/gpu_model.h"
#include "core/plan_gpu.h"
#include "core/stock_route.h"
#include "metal/lower.h"

namespace mlx_conv3d {

using namespace gpu;

namespace {

/// What a chunk size costs.
void cost_winograd(const ConvProblem& p, const Device& d, const WinogradPlan& plan, Candidate& c) {
  const metal::WinogradScratch scratch = metal::winograd_scratch(p, plan);
  const int64_t m = plan.m, frequencies = (m + 2) * (m + 2);
  const metal::GemmBlock block = metal::winograd_block(p, plan);
  const int64_t cols = divide_up(p.output(kWidth), m);
  const int64_t tiles = p.batch * divide_up(p.output(kHeight), m) * cols;
  const int64_t tile_chunks = divide_up(tiles, plan.tiles),
                frame_chunks = divide_up(p.output(kDepth), plan.frames);
  const int64_t slices = divide_up(p.out_channels, plan.out_slice);
  const double chunks = static_cast<double>(tile_chunks * frame_chunks * slices);
  const double rows = static_cast<double>(round_up(plan.frames * plan.tiles, block.rows));
  const double outs = static_cast<double>(round_up(plan.out_slice, block.cols));
  const int64_t pitch = metal::winograd_tile_pitch(p.in_channels);

  const double products =
      2.0 * frequencies * rows * outs * static_cast<double>(p.kernel[kDepth] * pitch) * chunks;
  const double tile_floats = static_cast<double>(scratch.tiles) / 4 * chunks;
  const double product_floats = static_cast<double>(scratch.products) / 4 * chunks;
  const double transforms = 4.0 * (m + 1) * (tile_floats + product_floats);
  // Threadgroups that do not fill the cores leave them idle.
  const double groups =
      rows / static_cast<double>(block.rows) * outs / static_cast<double>(block.cols) * frequencies;
  const double slots = 2.0 * d.cores;
  const double busy = groups / (std::ceil(groups / slots) * slots);

  // A chunk reads a border around its tiles and frames again.
  const double tile_rows = static_cast<double>(std::max<int64_t>(1, plan.tiles / std::max<int64_t>(1, cols)));
  const double tile_cols = static_cast<double>(std::min(plan.tiles, cols));
  const double border = (1 + 2 / (tile_rows * m)) * (1 + (plan.tiles < cols ? 2 / (tile_cols * m) : 0)) *
                        static_cast<double>(winograd_input_frames(p, plan.frames) * frame_chunks) /
                        static_cast<double>(winograd_input_frames(p, p.output(kDepth)));
  const double x = static_cast<double>(p.batch * p.stored(0) * p.input[1] * p.input[2]) * p.in_channels *
                   static_cast<double>(item_size(p.x_type));
  const double weights = static_cast<double>(scratch.weights);
  const double weight_reads =
      scratch.total() <= d.system_cache_bytes ? 1.0 : static_cast<double>(tile_chunks * frame_chunks);
  const double steady = p.operand_bytes() + x * (border * static_cast<double>(slices) - 1) +
                        weights * static_cast<double>(slices) * (1 + weight_reads);
  const double staged = 8.0 * (tile_floats + product_floats);
  const bool cached = static_cast<double>(scratch.tiles + scratch.products) <=
                      kCacheShare * static_cast<double>(d.system_cache_bytes);
  c.winograd = plan;
  c.workspace = scratch.total();
  c.flops = products + transforms;
  c.bytes = steady + (cached ? 0 : staged);
  c.cost = seconds(products / (d.gflops * 1e9 * kProductShare * busy) +
                       transforms / (d.gflops * 1e9 * kTransformShare),
                   steady + staged / (cached ? kCacheSpeed : 1), d) +
           (3 * chunks + static_cast<double>(slices)) * kStepSeconds;
}

/// The largest chunk of `frames` whose tiles and products take at most `budget` bytes; no tiles if there is
/// none.
WinogradPlan fit_chunk(const ConvProblem& p, int m, int64_t frames, int64_t slice, int64_t budget) {
  const int64_t tiles = p.batch * divide_up(p.output(kHeight), m) * divide_up(p.output(kWidth), m);
  WinogradPlan plan{m, 0, frames, slice};
  int64_t low = 0, high = tiles;
  while (low < high) {
    plan.tiles = (low + high + 1) / 2;
    const metal::WinogradScratch s = metal::winograd_scratch(p, plan);
    if (s.tiles + s.products <= budget) {
      low = plan.tiles;
    } else {
      high = plan.tiles - 1;
    }
  }
  plan.tiles = low == 0 ? 0 : divide_up(tiles, divide_up(tiles, low));
  return plan;
}

/// Why the kernels cannot take a problem that it fits otherwise; empty if they can.
std::string obstacle(const ConvProblem& p) {
  if (p.in_channels == 0) return "it needs input channels";
  const int64_t tiles = p.batch * divide_up(p.output(kHeight), 2) * divide_up(p.output(kWidth), 2);
  if (tiles > INT32_MAX / 4) return "it needs fewer tiles";
  return "";
}

}  // namespace

void consider_gpu_winograd(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  c.reason = obstacle(p);
  c.legal = c.reason.empty();
  if (!c.legal) return;
  if (p.empty()) {
    c.winograd = {2, 1, 1, std::max<int64_t>(1, p.out_channels)};
    c.reason = "the output is empty";
    return;
  }
  Candidate best;
  const int64_t cache = static_cast<int64_t>(kCacheShare * static_cast<double>(d.system_cache_bytes));
  for (int m : {2, 4, 6}) {
    // With fp32 results F(6) misses the accuracy contract; rounding to 16 bits hides its error entirely.
    if (m == 6 && p.out_type == Dtype::float32) continue;
    int64_t slice = p.out_channels;
    const auto weight_bytes = [&] { return metal::winograd_scratch(p, {m, 1, 1, slice}).weights; };
    while (slice > 32 && weight_bytes() > limit / 4 * 3) slice = round_up(divide_up(slice, 2), 32);
    slice = std::min(slice, p.out_channels);
    for (int64_t budget : {std::min(cache, limit - weight_bytes()), limit - weight_bytes()}) {
      for (int64_t pieces = 1;; pieces *= 2) {
        const int64_t frames = divide_up(p.output(kDepth), pieces);
        const WinogradPlan plan = fit_chunk(p, m, frames, slice, budget);
        if (plan.tiles > 0) {
          Candidate at = c;
          cost_winograd(p, d, plan, at);
          if (best.workspace == 0 || at.cost < best.cost) best = at;
        }
        if (frames == 1) break;
      }
    }
  }
  if (best.workspace == 0) {
    c.legal = false;
    c.reason = "its workspace does not fit the limit of " + std::to_string(limit >> 20) + " MiB";
    return;
  }
  c = best;
  const std::string m = std::to_string(c.winograd.m);
  char ratio[64];
  std::snprintf(ratio, sizeof(ratio), "; modelled %.2fx the speed of stock",
                stock_route(p, d).seconds / c.cost);
  c.reason = "F(" + m + "x" + m + ", 3x3) with the depth taps summed in the transform domain" + ratio;
}

}  // namespace mlx_conv3d
