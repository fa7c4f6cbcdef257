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

/// Tiles of one frame of each batch element.
int64_t tiles_of(const ConvProblem& p, int64_t m) {
  return p.batch * divide_up(p.output(kHeight), m) * divide_up(p.output(kWidth), m);
}

/// The output channels of a slice as its products see them.
struct Outputs {
  int64_t sets, set_cols;  ///< sets whose weights take turns, and columns of the first in whole blocks
  double cols;             ///< of all sets
};

Outputs outputs_of(const ConvProblem& p, const WinogradPlan& plan, const metal::GemmBlock& block) {
  const int64_t held = metal::winograd_held_outs(p, plan);
  const int64_t sets = divide_up(plan.out_slice, held), set_cols = round_up(held, block.cols);
  const int64_t last = round_up(plan.out_slice - (sets - 1) * held, block.cols);
  return {sets, set_cols, static_cast<double>((sets - 1) * set_cols + last)};
}

/// Bytes of scratch written and read.
struct ScratchTraffic {
  double memory = 0, cache = 0;
};
/// What is transformed over all chunks and slices, in bytes; the weights as written and as read.
struct Transformed {
  double tiles, products, weights_written, weights_read;
};

/// What the system-level cache holds: everything; or a chunk; or else what one pass makes.
ScratchTraffic scratch_traffic(const ConvProblem& p, const Device& d, const WinogradPlan& plan,
                               const Transformed& made, int64_t sets) {
  const metal::WinogradScratch scratch = metal::winograd_scratch(p, plan);
  const int64_t passes = metal::winograd_passes(plan);
  const double cache = kCacheShare * static_cast<double>(d.system_cache_bytes);
  const bool all_fits = static_cast<double>(scratch.total()) <= cache;
  const bool chunk_fits = static_cast<double>(scratch.tiles + scratch.products) <= cache;
  const double weights = static_cast<double>(scratch.weights);
  const double pass_tiles = static_cast<double>(plan.tile_rows ? scratch.tiles : scratch.tiles / passes);
  const double pass = weights + (plan.tile_rows ? pass_tiles : 0);
  const bool pass_fits = plan.weight_rows > 0 && (all_fits || (!chunk_fits && pass <= cache));
  // The first set of outputs brings a pass's tiles, which stay for the others.
  const bool tiles_stay = pass_fits && weights + pass_tiles <= cache;
  const bool tiles_fit = chunk_fits || (tiles_stay && (plan.tile_rows || passes == 1));
  ScratchTraffic t;
  (chunk_fits ? t.cache : t.memory) += 2 * made.products;
  (tiles_fit ? t.cache : t.memory) += 2 * made.tiles;
  (chunk_fits || tiles_stay ? t.cache : t.memory) += made.tiles * static_cast<double>(sets - 1);
  (pass_fits ? t.cache : t.memory) += made.weights_written;
  (pass_fits || all_fits ? t.cache : t.memory) += made.weights_read;
  return t;
}

/// What a chunk size costs.
void cost_winograd(const ConvProblem& p, const Device& d, const WinogradPlan& plan, Candidate& c) {
  const int64_t m = plan.m, frequencies = metal::winograd_frequencies(plan);
  const metal::GemmBlock block = metal::winograd_block(p, plan);
  const FrameChunks time = frame_chunks(p, plan, block);
  const int64_t cols = divide_up(p.output(kWidth), m);
  const int64_t tiles = p.batch * divide_up(p.output(kHeight), m) * cols;
  const int64_t tile_chunks = divide_up(tiles, plan.tiles);
  const int64_t slices = divide_up(p.out_channels, plan.out_slice);
  const double per_time = static_cast<double>(tile_chunks * slices);
  const double chunks = per_time * static_cast<double>(time.count);
  const Outputs outputs = outputs_of(p, plan, block);
  const int64_t pitch = metal::winograd_tile_pitch(p.in_channels);
  const double rows = static_cast<double>(time.rows) * per_time;

  const double products = 2.0 * frequencies * rows * outputs.cols *
                          static_cast<double>(metal::winograd_depth_values(p, plan) * pitch);
  const double tile_floats =
      static_cast<double>(frequencies * time.tile_frames * plan.tiles * pitch) * per_time;
  const int64_t planes = metal::winograd_planes(plan);
  const double product_floats = static_cast<double>(frequencies * planes) * rows * outputs.cols;
  // Weights, in floats written over all chunks and slices, and how often w is read for them.
  const int64_t passes = metal::winograd_passes(plan);
  const double chunks_per_slice = static_cast<double>(tile_chunks * time.count);
  const double times_made = plan.weight_rows == 0 ? 1 : chunks_per_slice;
  const double weight_floats =
      outputs.cols *
      static_cast<double>(frequencies * metal::winograd_depth_values(p, plan) * pitch * slices);
  const metal::TransformFlops flops = metal::winograd_transform_flops(p, plan);
  const double transforms =
      (tile_floats * flops.input + product_floats * flops.output) / static_cast<double>(frequencies) +
      weight_floats * times_made * flops.weight /
          static_cast<double>(frequencies * metal::winograd_depth_values(p, plan)) +
      products / 2 / static_cast<double>(block.cols) * metal::winograd_staging_flops(plan);
  const double groups = rows / chunks / static_cast<double>(block.rows * block.cols) *
                        static_cast<double>(outputs.set_cols * divide_up(frequencies, passes));
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
  const double value_bytes = static_cast<double>(metal::winograd_value_bytes(plan));
  const Transformed made{value_bytes * tile_floats, value_bytes * product_floats,
                         4.0 * weight_floats * times_made, 4.0 * weight_floats * chunks_per_slice};
  const ScratchTraffic scratch = scratch_traffic(p, d, plan, made, outputs.sets);
  const double share = product_share(metal::flops_per_byte(block, plan));
  const double steps =
      plan.weight_rows == 0
          ? 3 * chunks + static_cast<double>(slices)
          : chunks * static_cast<double>((plan.tile_rows ? passes : 1) + outputs.sets * (2 * passes + 1));
  c.winograd = plan;
  c.workspace = metal::winograd_scratch(p, plan).total();
  c.flops = products + transforms;
  c.bytes = steady + scratch.memory;
  c.cost =
      seconds(products / (d.gflops * 1e9 * share * busy) + transforms / (d.gflops * 1e9 * kTransformShare),
              c.bytes + scratch.cache / kCacheSpeed, d) +
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
  const int64_t tiles = tiles_of(p, plan.m);
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

/// Threadgroups of a product of the largest chunk, over what they would be if tiles filled whole blocks and
/// whole waves of cores.
double filled_share(const ConvProblem& p, const Device& d, const WinogradPlan& plan) {
  const metal::GemmBlock block = metal::winograd_block(p, plan);
  const int64_t rows = divide_up(metal::winograd_chunk_frames(p, plan), plan.depth_m) * plan.tiles;
  const int64_t blocks = divide_up(rows, block.rows);
  const double others =
      static_cast<double>(divide_up(metal::winograd_held_outs(p, plan), block.cols) *
                          divide_up(metal::winograd_frequencies(plan), metal::winograd_passes(plan)));
  return static_cast<double>(rows) / static_cast<double>(blocks * block.rows) *
         busy_share(static_cast<double>(blocks) * others, d);
}

/// The plan with its tiles in some more chunks, where those leave fewer cores idle.
WinogradPlan fill_waves(const ConvProblem& p, const Device& d, const WinogradPlan& fitted) {
  const int64_t tiles = tiles_of(p, fitted.m);
  const int64_t least = divide_up(tiles, fitted.tiles);
  WinogradPlan best = fitted;
  double share = filled_share(p, d, fitted);
  const int64_t step = 1 + least / 48;
  for (int64_t chunks = least + step; chunks <= std::min(tiles, least + 12 * step); chunks += step) {
    WinogradPlan plan = fitted;
    plan.tiles = divide_up(tiles, chunks);
    const double found = filled_share(p, d, plan);
    if (found > share) {
      share = found;
      best = plan;
    }
  }
  return best;
}

/// Why the kernels cannot take a problem that it fits otherwise; empty if they can.
std::string obstacle(const ConvProblem& p) {
  if (p.in_channels == 0) return "it needs input channels";
  if (p.input_dilated()) return "it needs input dilation 1";
  const int64_t least = p.kernel[kHeight] == 1 ? 1 : 2;
  const int64_t tiles = tiles_of(p, least);
  if (tiles > INT32_MAX / 4) return "it needs fewer tiles";
  return "";
}

constexpr int64_t kLeastRows = 64;

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
  // Of all tiles, what leaves a pass's in the cache.
  const int64_t passes = plan.tile_rows ? 1 : metal::winograd_passes(plan);
  const int64_t pass =
      plan.tile_rows || plan.weight_outs > 0 ? std::min(room, passes * (cache - weight_bytes())) : room;
  std::vector<std::pair<int64_t, int64_t>> budgets{{room, room}};
  if (cache < room) budgets.push_back({cache, room});
  if (pass < room) budgets.push_back({room, pass});
  for (const auto& [budget, tile_budget] : budgets) {
    for (int64_t pieces = 1;; pieces *= 2) {
      plan.frames = std::min(divide_up(groups, pieces) * depth_m, p.output(kDepth));
      const WinogradPlan fitted = fit_chunk(p, plan, budget, tile_budget);
      if (fitted.tiles > 0) {
        plans.push_back(base);
        cost_winograd(p, d, fitted, plans.back());
        const WinogradPlan filled = fill_waves(p, d, fitted);
        if (filled.tiles != fitted.tiles) {
          plans.push_back(base);
          cost_winograd(p, d, filled, plans.back());
        }
      }
      // Of a single row, which may have millions of groups, no chunk of less than a block of them helps.
      const bool least = plan.along_depth() && divide_up(plan.frames, depth_m) * tiles_of(p, 1) <= kLeastRows;
      if (plan.frames <= depth_m || least) break;
    }
  }
}

/// The plan with the least time, where memory traffic counts a little more than the time it takes; but none
/// slower than `stock` if one is not.
Candidate best_of(std::vector<Candidate> plans, double stock, const Device& d) {
  const auto last =
      std::partition(plans.begin(), plans.end(), [&](const Candidate& c) { return c.cost <= stock; });
  if (last != plans.begin()) plans.erase(last, plans.end());
  const auto price = [&](const Candidate& c) {
    return c.cost + kTrafficWeight * kOverlap * transfer_seconds(c.bytes, d);
  };
  const auto best = std::min_element(plans.begin(), plans.end(), [&](const Candidate& a, const Candidate& b) {
    return price(a) < price(b);
  });
  return best == plans.end() ? Candidate{} : *best;
}

/// With fp32 results F(6) in two directions misses the accuracy contract; rounding to 16 bits hides its error
/// entirely.
bool is_exact(const ConvProblem& p, int m) { return m < 6 || p.out_type != Dtype::float32; }

/// Appends those whose chunks make their weights anew: all frequencies at once or in passes, of all outputs
/// or of sets of them.
void add_plans_in_passes(const ConvProblem& p, const Device& d, int64_t limit, WinogradPlan plan,
                         const Candidate& base, std::vector<Candidate>& plans) {
  const double cache = static_cast<double>(d.system_cache_bytes) * kCacheShare;
  for (int rows : {1, 2, 3, 4, plan.m + 2}) {
    if (rows == plan.m + 1 || rows > plan.m + 2) continue;
    for (bool tile_rows : {false, true}) {
      if (tile_rows && rows == plan.m + 2) continue;
      plan.weight_rows = rows;
      plan.tile_rows = tile_rows;
      plan.weight_outs = 0;
      add_plans(p, d, limit, plan, base, plans);
      // Sets are for weights that crowd tiles out of the cache, or out of the scratch.
      if (static_cast<double>(metal::winograd_scratch(p, plan).weights) < cache / 2) continue;
      for (int64_t outs : {64, 96, 128, 192, 256}) {
        plan.weight_outs = outs;
        if (outs < p.out_channels) add_plans(p, d, limit, plan, base, plans);
      }
    }
  }
}

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
        add_plans_in_passes(p, d, limit, plan, base, plans);
      }
    }
  }
  return plans;
}

std::vector<Candidate> plans_along_depth(const ConvProblem& p, const Device& d, int64_t limit,
                                         const Candidate& base) {
  std::vector<Candidate> plans;
  for (int depth_m : {2, 4, 6}) {
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

/// In words: what each chunk makes anew, and how much of it at a time.
std::string passes_of(const WinogradPlan& plan) {
  if (plan.weight_rows == 0) return "";
  const int64_t frequencies = int64_t{std::min(plan.weight_rows, plan.m + 2)} * (plan.m + 2);
  return std::string(plan.tile_rows ? ", weights and tiles" : ", weights") + " in passes of " +
         std::to_string(frequencies) + " frequencies" +
         (plan.weight_outs == 0 ? ""
                                : ", weights of " + std::to_string(plan.weight_outs) + " outputs at a time");
}

std::string transforms_of(const WinogradPlan& plan, bool row) {
  if (plan.along_depth()) {
    return "F(" + std::to_string(plan.depth_m) + ", 3) along " + (row ? "the width" : "depth") +
           (plan.fused ? " with the transforms in the product" : "");
  }
  const std::string m = std::to_string(plan.m);
  return "F(" + m + "x" + m + ", 3x3) with " +
         (plan.depth_m > 1 ? "F(2, 3) along depth fused into the product"
                           : "the depth taps summed in the transform domain") +
         passes_of(plan) + (plan.float24 ? ", tiles and products of 24 bits" : "");
}

}  // namespace

void consider_gpu_winograd(const ConvProblem& problem, const Device& d, int64_t limit, Candidate& c) {
  const bool row = winograd_line_axis(problem.kernel) == kWidth;
  const ConvProblem p = row ? with_axes(problem, kRowAlongDepth) : problem;
  c.reason = obstacle(p);
  c.legal = c.reason.empty();
  if (!c.legal) return;
  if (p.empty()) {
    const bool flat = p.kernel[kHeight] == 1;
    c.winograd = {flat ? 1 : 2, 1, 1, std::max<int64_t>(1, p.out_channels), flat ? 2 : 1};
    c.reason = "the output is empty";
    return;
  }
  std::vector<Candidate> plans =
      p.kernel[kHeight] == 1 ? plans_along_depth(p, d, limit, c) : plans_in_space(p, d, limit, c);
  const double stock = stock_route(problem, d).seconds;
  const Candidate best = best_of(std::move(plans), stock, d);
  if (best.workspace == 0) {
    c.legal = false;
    c.reason = "its workspace does not fit the limit of " + std::to_string(limit >> 20) + " MiB";
    return;
  }
  c = best;
  c.reason = transforms_of(c.winograd, row) + compared(c, "stock", stock);
}

}  // namespace mlx_conv3d
