// Modelled costs on Apple GPUs. Nothing here was measured by this project: the constants come from published
// timings of stock MLX and of hand-written Metal matrix products; docs/metal.md has formulas and sources.

#include "core/plan_gpu.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "metal/lower.h"

namespace mlx_conv3d {
namespace {

// Fitted to stock's three published M3 Max times: the share of the peak that its matrix products reach, the
// share of the nominal bandwidth, and how far the two overlap.
constexpr double kStockProductShare = 0.80, kStockImplicitShare = 0.70;
constexpr double kBandwidthShare = 0.83, kOverlap = 0.91;
// fp32 simdgroup_matrix products on an M1 Max: 8.0 of 10.6 TFLOP/s (philipturner, metal-flash-attention).
constexpr double kProductShare = 0.75;
constexpr double kTransformShare = 0.5;  ///< assumed: straight-line multiply-adds and adds
constexpr double kCacheSpeed = 2;        ///< assumed: the system-level cache against memory
constexpr double kCacheShare = 0.75;     ///< of the system-level cache that a chunk may fill
constexpr double kDirectShare = 0.10;    ///< assumed: direct kernels, which share no operand between threads
constexpr double kStepSeconds = 3e-6;    ///< assumed: a dispatch behind a barrier

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

double seconds(double product_seconds, double bytes, const Device& d) {
  return (product_seconds + bytes / (d.gbytes * 1e9 * kBandwidthShare)) * kOverlap;
}

// ---- winograd ---------------------------------------------------------------------------------------------

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
  const double x = static_cast<double>(p.batch * p.extent(0) * p.input[1] * p.input[2]) * p.in_channels *
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

void consider_winograd(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
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

/// Why winograd's kernels cannot take a problem that it fits otherwise; empty if they can.
std::string winograd_obstacle(const ConvProblem& p) {
  if (p.in_channels == 0) return "it needs input channels";
  const int64_t tiles = p.batch * divide_up(p.output(kHeight), 2) * divide_up(p.output(kWidth), 2);
  if (tiles > INT32_MAX / 4) return "it needs fewer tiles";
  return "";
}

// ---- stock ------------------------------------------------------------------------------------------------

/// The passes after the convolution: bias, activation, residual, each read and written in the result's type.
double epilogue_bytes(const ConvProblem& p) {
  const double y =
      static_cast<double>(p.out_positions()) * p.out_channels * static_cast<double>(item_size(p.out_type));
  return y * (2.0 * p.bias + 2.0 * (p.activation != Activation::none) + 3.0 * p.residual);
}

/// Stock splits a convolution into one 2-D convolution per depth tap (MLX PR #3785).
bool stock_splits(const ConvProblem& p) {
  const bool depth_padding = p.padded(kDepth) && p.pad_mode[kDepth] == PadMode::zeros;
  return p.batch == 1 && p.groups == 1 && !depth_padding && p.stride[0] == 1 && p.dilation[0] == 1 &&
         !p.input_dilated() && p.kernel[0] <= 7 && p.in_channels % 16 == 0 && p.out_channels % 16 == 0;
}

/// Whether those take stock's Winograd F(6x6, 3x3).
bool stock_winograd(const ConvProblem& p) {
  const auto spatial = [&](const Size3& v, int64_t value) { return v[1] == value && v[2] == value; };
  return spatial(p.kernel, 3) && spatial(p.stride, 1) && spatial(p.dilation, 1) && !p.flip &&
         p.in_channels % 32 == 0 && p.out_channels % 32 == 0 &&
         p.output(0) * p.input[1] * p.input[2] >= 4096 && p.in_channels + p.out_channels >= 256;
}

}  // namespace

StockRoute stock_route(const ConvProblem& p, const Device& d) {
  const double item = static_cast<double>(item_size(p.out_type)), taps = static_cast<double>(p.kernel[0]);
  const double outputs = static_cast<double>(p.out_positions()) * p.out_channels;
  const double frame = static_cast<double>(p.batch * p.input[1] * p.input[2]) * p.in_channels;
  const double peak = 1e9 * (p.out_type == Dtype::float32 ? d.gflops : std::max(d.gflops, d.matrix_gflops));
  StockRoute r;
  // Lead frames and other paddings than zeros are copied together first.
  bool copies = p.lead > 0;
  for (int axis : {kDepth, kHeight, kWidth}) copies |= p.padded(axis) && p.pad_mode[axis] != PadMode::zeros;
  const double copied = copies ? 2 * item * frame * static_cast<double>(p.extent(0)) : 0;
  const double extra = epilogue_bytes(p) + copied;
  const double adds = 3 * item * outputs * (taps - 1);
  if (stock_splits(p) && stock_winograd(p)) {
    const double tiles =
        static_cast<double>(p.output(0) * divide_up(p.output(1), 6) * divide_up(p.output(2), 6));
    const double tile_in = 64 * tiles * p.in_channels * item, tile_out = 64 * tiles * p.out_channels * item;
    const double inputs = frame * static_cast<double>(p.output(0));
    r.name = "one 2-D Winograd F(6, 3) per depth tap";
    r.flops = 2 * 64 * tiles * p.in_channels * p.out_channels * taps;
    r.bytes = taps * (2 * item * inputs + 2 * tile_in + 2 * tile_out + item * outputs) + adds + extra;
    r.seconds = seconds(r.flops / (peak * kStockProductShare), r.bytes, d);
    r.workspace =
        static_cast<int64_t>(taps * (item * inputs + tile_in + tile_out) + item * outputs * (taps - 1));
    return r;
  }
  r.flops = p.direct_flops();
  const double product_seconds = r.flops / (peak * kStockImplicitShare);
  if (stock_splits(p)) {
    r.name = "one 2-D implicit GEMM per depth tap";
    r.bytes = p.operand_bytes() + (taps - 1) * item * (frame * static_cast<double>(p.output(0)) + outputs) +
              adds + extra;
    r.workspace = static_cast<int64_t>(item * outputs * (taps - 1));
  } else {
    r.name = "one 3-D implicit GEMM";
    r.bytes = p.operand_bytes() + extra;
  }
  if (p.groups > 1) r.name = "one convolution per group";
  const double transfer = r.bytes / (d.gbytes * 1e9 * kBandwidthShare);
  r.seconds = std::max(product_seconds, transfer) +
              (p.kernel[0] > 1 ? taps : 1) * static_cast<double>(p.groups) * kStepSeconds;
  return r;
}

namespace {

void consider_grouped(const ConvProblem& p, const Device& d, Candidate& c) {
  if (!metal::has_grouped_kernel(p)) {
    c.legal = false;
    c.reason = "it needs a result of the type that x and w promote to";
    return;
  }
  c.flops = p.direct_flops();
  c.bytes = p.operand_bytes();
  c.cost =
      c.flops / (d.gflops * 1e9 * kDirectShare) + c.bytes / (d.gbytes * 1e9 * kBandwidthShare) + kStepSeconds;
  c.reason =
      p.group_in() == 1 && p.group_out() == 1 ? "depthwise, one thread per output" : "one thread per output";
}

}  // namespace

void consider_gpu(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  if (c.algorithm == Algorithm::stock) {
    const StockRoute r = stock_route(p, d);
    c.flops = r.flops;
    c.bytes = r.bytes;
    c.cost = r.seconds;
    c.workspace = r.workspace;
    c.reason = std::string("MLX's own: ") + r.name;
    return;
  }
  if (c.algorithm == Algorithm::winograd) {
    c.reason = winograd_obstacle(p);
    c.legal = c.reason.empty();
    if (c.legal) consider_winograd(p, d, limit, c);
    return;
  }
  if (c.algorithm == Algorithm::grouped) {
    consider_grouped(p, d, c);
    return;
  }
  c.legal = false;
  c.reason = "Metal has no kernel for it";
}

}  // namespace mlx_conv3d
