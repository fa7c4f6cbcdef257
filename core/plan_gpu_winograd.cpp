// Winograd on Apple GPUs: what a chunk size costs, and the cheapest.

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/gpu_model.h"
#include "core/plan_gpu.h"
#include "core/stock_route.h"
#include "metal/lower.h"

namespace mlx_conv3d {

using namespace gpu;

namespace {

/// The chunks of a plan along time, and what they hold together. metal/winograd.cpp cuts alike.
struct FrameChunks {
  int64_t count = 0, frames_in = 0;
  int64_t rows = 0;  ///< of the products of one tile chunk, padded to whole blocks
};

FrameChunks frame_chunks(const ConvProblem& p, const WinogradPlan& plan, const metal::GemmBlock& block) {
  const int64_t groups = divide_up(p.output(kDepth), plan.depth_m);
  FrameChunks all;
  all.count = divide_up(groups, divide_up(metal::winograd_chunk_frames(p, plan), plan.depth_m));
  for (int64_t i = 0; i < all.count; ++i) {
    const int64_t first = groups * i / all.count, last = groups * (i + 1) / all.count;
    const int64_t frames = std::min(last * plan.depth_m, p.output(kDepth)) - first * plan.depth_m;
    all.frames_in += winograd_input_frames(p, frames);
    all.rows += round_up((last - first) * plan.tiles, block.rows);
  }
  return all;
}

/// What a chunk size costs.
void cost_winograd(const ConvProblem& p, const Device& d, const WinogradPlan& plan, Candidate& c) {
  const metal::WinogradScratch scratch = metal::winograd_scratch(p, plan);
  const int64_t m = plan.m, frequencies = (m + 2) * (m + 2);
  const metal::GemmBlock block = metal::winograd_block(p, plan);
  const FrameChunks time = frame_chunks(p, plan, block);
  const int64_t cols = divide_up(p.output(kWidth), m);
  const int64_t tiles = p.batch * divide_up(p.output(kHeight), m) * cols;
  const int64_t tile_chunks = divide_up(tiles, plan.tiles);
  const int64_t slices = divide_up(p.out_channels, plan.out_slice);
  const double per_time = static_cast<double>(tile_chunks * slices);
  const double chunks = per_time * static_cast<double>(time.count);
  const double outs = static_cast<double>(round_up(plan.out_slice, block.cols));
  const int64_t pitch = metal::winograd_tile_pitch(p.in_channels);
  const double rows = static_cast<double>(time.rows) * per_time;

  const double products =
      2.0 * frequencies * rows * outs * static_cast<double>(metal::winograd_depth_values(p, plan) * pitch);
  const double tile_floats =
      static_cast<double>(frequencies * time.frames_in * plan.tiles * pitch) * per_time;
  const double product_floats = static_cast<double>(frequencies * plan.depth_m) * rows * outs;
  // Weights, in floats written over all chunks and slices, and how often w is read for them.
  const int64_t passes = plan.weight_rows == 0 ? 1 : divide_up(m + 2, plan.weight_rows);
  const double chunks_per_slice = static_cast<double>(tile_chunks * time.count);
  const double times_made = plan.weight_rows == 0 ? 1 : chunks_per_slice;
  const double weight_floats =
      outs * static_cast<double>(frequencies * metal::winograd_depth_values(p, plan) * pitch * slices);
  const double transforms =
      4.0 * (m + 1) * (tile_floats + product_floats + weight_floats * times_made * 3 / (m + 2));
  const double groups =
      rows / chunks / static_cast<double>(block.rows) * outs / static_cast<double>(block.cols) * frequencies;
  const double busy = busy_share(groups, d);

  // A chunk reads a border around its tiles and frames again.
  const double tile_rows = static_cast<double>(std::max<int64_t>(1, plan.tiles / std::max<int64_t>(1, cols)));
  const double tile_cols = static_cast<double>(std::min(plan.tiles, cols));
  const double border = (1 + 2 / (tile_rows * m)) * (1 + (plan.tiles < cols ? 2 / (tile_cols * m) : 0)) *
                        static_cast<double>(time.frames_in) /
                        static_cast<double>(winograd_input_frames(p, p.output(kDepth)));
  const double x = p.input_bytes();
  const double w = static_cast<double>(p.taps() * p.in_channels * p.out_channels * item_size(p.w_type));
  const double x_reads = border * static_cast<double>(slices * (plan.tile_rows ? passes : 1));
  const double steady =
      p.operand_bytes() + x * (x_reads - 1) + w * (times_made * static_cast<double>(passes) - 1);
  const double weights_written = 4.0 * weight_floats * times_made;
  const double weights_read = 4.0 * weight_floats * chunks_per_slice;
  // What the system-level cache holds: everything; or a chunk; or else what one pass makes.
  const double cache = kCacheShare * static_cast<double>(d.system_cache_bytes);
  const bool all_fits = static_cast<double>(scratch.total()) <= cache;
  const bool chunk_fits = static_cast<double>(scratch.tiles + scratch.products) <= cache;
  const double pass = static_cast<double>(scratch.weights + (plan.tile_rows ? scratch.tiles : 0));
  const bool pass_fits = plan.weight_rows > 0 && (all_fits || (!chunk_fits && pass <= cache));
  double staged = 0, in_cache = 0;
  (chunk_fits ? in_cache : staged) += 8.0 * product_floats;
  (chunk_fits || (plan.tile_rows && pass_fits) ? in_cache : staged) += 8.0 * tile_floats;
  (pass_fits ? in_cache : staged) += weights_written;
  (pass_fits || all_fits ? in_cache : staged) += weights_read;
  const double share = product_share(metal::flops_per_byte(block, plan.depth_m));
  const double steps = plan.weight_rows == 0
                           ? 3 * chunks + static_cast<double>(slices)
                           : chunks * static_cast<double>(plan.tile_rows ? 1 + 3 * passes : 2 + 2 * passes);
  c.winograd = plan;
  c.workspace = scratch.total();
  c.flops = products + transforms;
  c.bytes = steady + staged;
  c.cost =
      seconds(products / (d.gflops * 1e9 * share * busy) + transforms / (d.gflops * 1e9 * kTransformShare),
              steady + staged + in_cache / kCacheSpeed, d) +
      steps * kStepSeconds;
}

/// The plan with the largest chunk of tiles that takes at most `budget` bytes with its products, and at most
/// `tile_budget` without; no tiles if there is none.
WinogradPlan fit_chunk(const ConvProblem& p, WinogradPlan plan, int64_t budget, int64_t tile_budget) {
  const int64_t tiles = p.batch * divide_up(p.output(kHeight), plan.m) * divide_up(p.output(kWidth), plan.m);
  int64_t low = 0, high = tiles;
  while (low < high) {
    plan.tiles = (low + high + 1) / 2;
    const metal::WinogradScratch s = metal::winograd_scratch(p, plan);
    if (s.tiles + s.products <= budget && s.tiles <= tile_budget) {
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
  if (p.input_dilated()) return "it needs input dilation 1";
  const int64_t tiles = p.batch * divide_up(p.output(kHeight), 2) * divide_up(p.output(kWidth), 2);
  if (tiles > INT32_MAX / 4) return "it needs fewer tiles";
  return "";
}

/// Appends the plans with these tiles: for several counts of frames, the largest chunk that fits the cache,
/// the largest that fits the limit, and the largest whose passes fit the cache.
void add_plans(const ConvProblem& p, const Device& d, int64_t limit, WinogradPlan plan, const Candidate& base,
               std::vector<Candidate>& plans) {
  const int64_t cache = static_cast<int64_t>(kCacheShare * static_cast<double>(d.system_cache_bytes));
  const int64_t depth_m = plan.depth_m;
  const auto weight_bytes = [&] { return metal::winograd_scratch(p, plan).weights; };
  while (plan.out_slice > 32 && weight_bytes() > limit / 4 * 3) {
    plan.out_slice = round_up(divide_up(plan.out_slice, 2), 32);
  }
  plan.out_slice = std::min(plan.out_slice, p.out_channels);
  const int64_t room = limit - weight_bytes(), groups = divide_up(p.output(kDepth), depth_m);
  const int64_t pass = plan.tile_rows ? std::min(room, cache - weight_bytes()) : room;
  const std::pair<int64_t, int64_t> budgets[] = {{std::min(cache, room), room}, {room, room}, {room, pass}};
  for (const auto& [budget, tile_budget] : budgets) {
    for (int64_t pieces = 1;; pieces *= 2) {
      plan.frames = std::min(divide_up(groups, pieces) * depth_m, p.output(kDepth));
      const WinogradPlan fitted = fit_chunk(p, plan, budget, tile_budget);
      if (fitted.tiles > 0) {
        plans.push_back(base);
        cost_winograd(p, d, fitted, plans.back());
      }
      if (plan.frames <= depth_m) break;
    }
  }
}

/// The plan with the least time, where memory traffic counts a little more than the time it takes.
Candidate best_of(const std::vector<Candidate>& plans, const Device& d) {
  const auto price = [&](const Candidate& c) {
    return c.cost + kTrafficWeight * kOverlap * transfer_seconds(c.bytes, d);
  };
  const auto best = std::min_element(plans.begin(), plans.end(), [&](const Candidate& a, const Candidate& b) {
    return price(a) < price(b);
  });
  return best == plans.end() ? Candidate{} : *best;
}

/// In words: what is made in passes.
std::string passes_of(const WinogradPlan& plan) {
  if (plan.weight_rows == 0) return "";
  return std::string(plan.tile_rows ? ", weights and tiles" : ", weights") + " in passes of " +
         std::to_string(plan.weight_rows * (plan.m + 2)) + " frequencies";
}

}  // namespace

void consider_gpu_winograd(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  c.reason = obstacle(p);
  c.legal = c.reason.empty();
  if (!c.legal) return;
  if (p.empty()) {
    c.winograd = {2, 1, 1, std::max<int64_t>(1, p.out_channels), 1};
    c.reason = "the output is empty";
    return;
  }
  std::vector<Candidate> plans;
  for (int depth_m : {1, 2}) {
    const bool fits = depth_m == 1 || fits_depth_winograd(p);
    for (int m : {2, 4, 6}) {
      // With fp32 results F(6) misses the accuracy contract; rounding to 16 bits hides its error entirely.
      if (!fits || (m == 6 && p.out_type == Dtype::float32)) continue;
      WinogradPlan plan{m, 1, depth_m, p.out_channels, depth_m};
      add_plans(p, d, limit, plan, c, plans);
      for (int rows : {1, 2, 4}) {
        for (bool tile_rows : {false, true}) {
          plan.weight_rows = rows;
          plan.tile_rows = tile_rows;
          add_plans(p, d, limit, plan, c, plans);
        }
      }
    }
  }
  const Candidate best = best_of(plans, d);
  if (best.workspace == 0) {
    c.legal = false;
    c.reason = "its workspace does not fit the limit of " + std::to_string(limit >> 20) + " MiB";
    return;
  }
  c = best;
  const std::string m = std::to_string(c.winograd.m);
  c.reason = "F(" + m + "x" + m + ", 3x3) with " +
             (c.winograd.depth_m > 1 ? "F(2, 3) along depth fused into the product"
                                     : "the depth taps summed in the transform domain") +
             passes_of(c.winograd) + compared(c, "stock", stock_route(p, d).seconds);
}

}  // namespace mlx_conv3d
