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
  int64_t tile_frames = 0;  ///< transformed
  int64_t rows = 0;         ///< of the products of one tile chunk, padded to whole blocks
};

FrameChunks frame_chunks(const ConvProblem& p, const WinogradPlan& plan, const metal::GemmBlock& block) {
  const int64_t groups = divide_up(p.output(kDepth), plan.depth_m);
  FrameChunks all;
  all.count = divide_up(groups, divide_up(metal::winograd_chunk_frames(p, plan), plan.depth_m));
  for (int64_t i = 0; i < all.count; ++i) {
    const int64_t first = groups * i / all.count, last = groups * (i + 1) / all.count;
    const int64_t frames = std::min(last * plan.depth_m, p.output(kDepth)) - first * plan.depth_m;
    all.frames_in += winograd_input_frames(p, frames);
    all.tile_frames += metal::winograd_tile_frames(p, plan, frames);
    all.rows += round_up((last - first) * plan.tiles, block.rows);
  }
  return all;
}

/// What a chunk size costs.
void cost_winograd(const ConvProblem& p, const Device& d, const WinogradPlan& plan, Candidate& c) {
  const metal::WinogradScratch scratch = metal::winograd_scratch(p, plan);
  const int64_t m = plan.m, frequencies = metal::winograd_frequencies(plan);
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
      static_cast<double>(frequencies * time.tile_frames * plan.tiles * pitch) * per_time;
  const int64_t planes = metal::winograd_planes(plan);
  const double product_floats = static_cast<double>(frequencies * planes) * rows * outs;
  // Weights, in floats written over all chunks and slices, and how often w is read for them.
  const int64_t passes = plan.weight_rows == 0 ? 1 : divide_up(m + 2, plan.weight_rows);
  const double chunks_per_slice = static_cast<double>(tile_chunks * time.count);
  const double times_made = plan.weight_rows == 0 ? 1 : chunks_per_slice;
  const double weight_floats =
      outs * static_cast<double>(frequencies * metal::winograd_depth_values(p, plan) * pitch * slices);
  const metal::TransformFlops flops = metal::winograd_transform_flops(p, plan);
  const double transforms =
      (tile_floats * flops.input + product_floats * flops.output) / static_cast<double>(frequencies) +
      weight_floats * times_made * flops.weight /
          static_cast<double>(frequencies * metal::winograd_depth_values(p, plan)) +
      products / 2 / static_cast<double>(block.cols) * metal::winograd_staging_flops(plan);
  const double groups =
      rows / chunks / static_cast<double>(block.rows) * outs / static_cast<double>(block.cols) * frequencies;
  const double busy = busy_share(groups, d);

  // A chunk reads a border around its tiles and frames again.
  const double tile_rows = static_cast<double>(std::max<int64_t>(1, plan.tiles / std::max<int64_t>(1, cols)));
  const double tile_cols = static_cast<double>(std::min(plan.tiles, cols));
  const double edge = static_cast<double>(p.kernel[kHeight] - 1);
  const double border =
      (1 + edge / (tile_rows * m)) * (1 + (plan.tiles < cols ? edge / (tile_cols * m) : 0)) *
      static_cast<double>(time.frames_in) / static_cast<double>(winograd_input_frames(p, p.output(kDepth)));
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
  const double value_bytes =
      2.0 * static_cast<double>(metal::winograd_value_bytes(plan));  // written and read
  double staged = 0, in_cache = 0;
  (chunk_fits ? in_cache : staged) += value_bytes * product_floats;
  (chunk_fits || (plan.tile_rows && pass_fits) ? in_cache : staged) += value_bytes * tile_floats;
  (pass_fits ? in_cache : staged) += weights_written;
  (pass_fits || all_fits ? in_cache : staged) += weights_read;
  const double share = product_share(metal::flops_per_byte(block, plan));
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

/// The same for transforms in the product, which reads each group's frames for itself.
void cost_fused(const ConvProblem& p, const Device& d, const WinogradPlan& plan, Candidate& c) {
  const metal::GemmBlock block = metal::winograd_block(p, plan);
  const metal::TransformFlops flops = metal::winograd_transform_flops(p, plan);
  const int64_t groups = divide_up(p.output(kDepth), plan.depth_m);
  const double pitch = static_cast<double>(metal::winograd_tile_pitch(p.in_channels));
  const double rows = static_cast<double>(groups * round_up(plan.tiles, block.rows));
  const double slices = static_cast<double>(divide_up(p.out_channels, plan.out_slice));
  const double slice_cols = static_cast<double>(divide_up(plan.out_slice, block.cols));
  const double outs = slices * slice_cols * static_cast<double>(block.cols);
  const double frequencies = static_cast<double>(metal::winograd_frequencies(plan));
  const double products = 2 * frequencies * rows * outs * pitch;
  const double transforms =
      pitch * (rows * slices * slice_cols * flops.input + outs * flops.weight) + rows * outs * flops.output;
  const double busy = busy_share(rows / static_cast<double>(block.rows) * slice_cols, d);
  const double frames_read = static_cast<double>(groups * (plan.depth_m + 2)) * slices;
  const double x_reads = frames_read / static_cast<double>(winograd_input_frames(p, p.output(kDepth)));
  const double steady = p.operand_bytes() + p.input_bytes() * (x_reads - 1);
  const double in_cache = 8 * frequencies * outs * pitch;
  const double share = product_share(metal::fused_flops_per_byte(p, plan));
  c.winograd = plan;
  c.workspace = metal::winograd_scratch(p, plan).total();
  c.flops = products + transforms;
  c.bytes = steady;
  c.cost =
      seconds(products / (d.gflops * 1e9 * share * busy) + transforms / (d.gflops * 1e9 * kTransformShare),
              steady + in_cache / kCacheSpeed, d) +
      2 * slices * kStepSeconds;
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
  const int64_t least = p.kernel[kHeight] == 1 ? 1 : 2;
  const int64_t tiles = p.batch * divide_up(p.output(kHeight), least) * divide_up(p.output(kWidth), least);
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

/// With fp32 results F(6) misses the accuracy contract; rounding to 16 bits hides its error entirely.
bool is_exact(const ConvProblem& p, int m) { return m < 6 || p.out_type != Dtype::float32; }

std::vector<Candidate> plans_in_space(const ConvProblem& p, const Device& d, int64_t limit,
                                      const Candidate& base) {
  std::vector<Candidate> plans;
  for (int depth_m : {1, 2}) {
    const bool fits = depth_m == 1 || fits_depth_winograd(p);
    for (int m : {2, 4, 6}) {
      if (!fits || !is_exact(p, m)) continue;
      for (bool float24 : {false, true}) {
        if (float24 && !metal::takes_float24(p)) continue;
        WinogradPlan plan{m, 1, depth_m, p.out_channels, depth_m};
        plan.float24 = float24;
        add_plans(p, d, limit, plan, base, plans);
        for (int rows : {1, 2, 4}) {
          for (bool tile_rows : {false, true}) {
            plan.weight_rows = rows;
            plan.tile_rows = tile_rows;
            add_plans(p, d, limit, plan, base, plans);
          }
        }
      }
    }
  }
  return plans;
}

std::vector<Candidate> plans_along_depth(const ConvProblem& p, const Device& d, int64_t limit,
                                         const Candidate& base) {
  std::vector<Candidate> plans;
  for (int depth_m : {2, 4, 6}) {
    if (!is_exact(p, depth_m)) continue;
    WinogradPlan plan{1, 1, depth_m, p.out_channels, depth_m};
    add_plans(p, d, limit, plan, base, plans);
    if (!metal::fuses_transforms(p)) continue;
    // Every threadgroup reads a slice's weights, so that they must stay in the system-level cache.
    plan.fused = true;
    plan.tiles = p.batch * p.output(kHeight) * p.output(kWidth);
    plan.frames = p.output(kDepth);
    const int64_t cache = static_cast<int64_t>(kCacheShare * static_cast<double>(d.system_cache_bytes));
    while (metal::winograd_scratch(p, plan).weights > std::min(cache, limit) && plan.out_slice > 64) {
      plan.out_slice = round_up(divide_up(plan.out_slice, 2), 64);
    }
    if (metal::winograd_scratch(p, plan).weights > std::min(cache, limit)) continue;
    plans.push_back(base);
    cost_fused(p, d, plan, plans.back());
  }
  return plans;
}

/// In words: what is made in passes.
std::string passes_of(const WinogradPlan& plan) {
  if (plan.weight_rows == 0) return "";
  return std::string(plan.tile_rows ? ", weights and tiles" : ", weights") + " in passes of " +
         std::to_string(plan.weight_rows * (plan.m + 2)) + " frequencies";
}

std::string transforms_of(const WinogradPlan& plan) {
  if (plan.along_depth()) {
    return "F(" + std::to_string(plan.depth_m) + ", 3) along depth" +
           (plan.fused ? " with the transforms in the product" : "");
  }
  const std::string m = std::to_string(plan.m);
  return "F(" + m + "x" + m + ", 3x3) with " +
         (plan.depth_m > 1 ? "F(2, 3) along depth fused into the product"
                           : "the depth taps summed in the transform domain") +
         passes_of(plan) + (plan.float24 ? ", tiles and products of 24 bits" : "");
}

}  // namespace

void consider_gpu_winograd(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  c.reason = obstacle(p);
  c.legal = c.reason.empty();
  if (!c.legal) return;
  if (p.empty()) {
    const bool flat = p.kernel[kHeight] == 1;
    c.winograd = {flat ? 1 : 2, 1, 1, std::max<int64_t>(1, p.out_channels), flat ? 2 : 1};
    c.reason = "the output is empty";
    return;
  }
  const std::vector<Candidate> plans =
      p.kernel[kHeight] == 1 ? plans_along_depth(p, d, limit, c) : plans_in_space(p, d, limit, c);
  const Candidate best = best_of(plans, d);
  if (best.workspace == 0) {
    c.legal = false;
    c.reason = "its workspace does not fit the limit of " + std::to_string(limit >> 20) + " MiB";
    return;
  }
  c = best;
  c.reason = transforms_of(c.winograd) + compared(c, "stock", stock_route(p, d).seconds);
}

}  // namespace mlx_conv3d
