// Blocked products, direct kernels and weight gradients on a CPU.

#include "core/plan_cpu.h"

#include <algorithm>

#include "core/cpu_model.h"

namespace mlx_conv3d {

using namespace cpu_model;

namespace {

constexpr int64_t kDepthBlock = 256;  ///< short enough that fp32 sums stay within 1e-6 of exact ones
constexpr int64_t kRowBlock = 192, kColBlock = 768;

/// Block sizes that fit the limit. `depth_taps_held`: of the packed weights, how many depth taps are there at
/// once.
bool fit_gemm(const ConvProblem& p, const Device& d, int64_t limit, int64_t depth_taps_held,
              int64_t extra_bytes, Candidate& c) {
  const int64_t panel = d.panel_vectors * d.vector_width;
  const int64_t out_lanes = lanes(p.group_out(), d);
  const int64_t taps_held = p.taps() / p.kernel[0] * depth_taps_held;
  const int64_t slack = 4096 + int64_t{64} * 3 * d.cores;
  const int64_t packed_bytes = taps_held * p.group_in() * out_lanes * 4;
  GemmPlan g;
  g.depth = std::min<int64_t>(kDepthBlock, std::max<int64_t>(1, p.taps() * p.group_in()));
  g.cols = std::min(round_up(out_lanes, panel), round_up(kColBlock, panel));
  g.rows = kRowBlock;
  const auto thread_bytes = [&](bool packed) {
    return d.cores * 4 * (g.rows * (g.depth + d.vector_width + g.cols) + (packed ? 0 : g.depth * g.cols));
  };
  g.packed_weights = packed_bytes + thread_bytes(true) + extra_bytes + slack <= limit;
  while (thread_bytes(g.packed_weights) + (g.packed_weights ? packed_bytes : 0) + extra_bytes + slack >
         limit) {
    if (g.rows > 16) {
      g.rows /= 2;
    } else if (g.cols > panel) {
      g.cols = round_up(g.cols / 2, panel);
    } else {
      return false;
    }
  }
  // Enough tasks to keep every thread busy to the end.
  const auto tasks = [&] { return divide_up(p.out_positions(), g.rows) * divide_up(out_lanes, g.cols); };
  while (tasks() < 4 * d.cores && g.rows > 48) g.rows = round_up(g.rows / 2, 8);
  while (tasks() < 2 * d.cores && g.cols > 2 * panel) g.cols = round_up(g.cols / 2, panel);
  while (tasks() < 2 * d.cores && g.rows > 12) g.rows /= 2;
  c.gemm = g;
  c.workspace = thread_bytes(g.packed_weights) + (g.packed_weights ? packed_bytes : 0) + extra_bytes + slack;

  const double rows = static_cast<double>(p.out_positions());
  const double k =
      static_cast<double>(p.taps() * p.group_in()) / (c.algorithm == Algorithm::transposed ? phases(p) : 1);
  // Narrow products sum their vectors' lanes at the end of each block.
  const int64_t busy_lanes = is_narrow(p) ? p.group_out() + 1 : out_lanes;
  const double padded_lanes = static_cast<double>(busy_lanes * p.groups);
  c.flops = 2.0 * rows * k * padded_lanes;
  const double gathered = rows * k * static_cast<double>(p.groups) * divide_up(out_lanes, g.cols);
  c.bytes = p.operand_bytes() + 8.0 * gathered + 8.0 * static_cast<double>(packed_bytes) / 4;
  const double scale = d.gflops / d.cores / 135.0;
  c.cost = c.flops / (d.gflops * 1e9 * kGatherShare) + gathered / (1.5e9 * d.cores * scale) +
           static_cast<double>(p.taps() * p.group_in() * out_lanes * p.groups) / (1.0e9 * d.cores * scale) +
           rows * padded_lanes / (1.5e9 * d.cores * scale) + 2 * p.groups * kStepSeconds;
  return true;
}

void consider_gemm(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like, Candidate& c,
                   const std::string& reason) {
  int64_t taps_held = p.kernel[0], extra = 0;
  if (c.algorithm == Algorithm::taps) {
    taps_held = 1;
    if (p.out_type != Dtype::float32) extra = round_up(p.out_positions() * p.out_channels * 4, 64);
  }
  if (!fit_gemm(p, d, limit, taps_held, extra, c)) {
    refuse(c, limit);
    return;
  }
  c.reason = reason;
  if (c.algorithm != Algorithm::taps) consider_cpu_tiles(p, d, limit, like, c);
  if (c.algorithm == Algorithm::taps) {
    const double sums = static_cast<double>(p.out_positions()) * static_cast<double>(p.out_channels);
    c.bytes += 8.0 * sums * static_cast<double>(p.kernel[0] - 1);
    c.cost += 8.0 * sums * static_cast<double>(p.kernel[0] - 1) / (d.gbytes * 1e9);
  }
  // The same work under its particular name is preferred to the general one.
  if (c.algorithm == Algorithm::taps) c.cost *= 1.005;
  if (c.algorithm == Algorithm::implicit_gemm) c.cost *= 1.01;
}

void consider_grouped(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like,
                      Candidate& c) {
  if (!is_direct(p)) {
    consider_gemm(p, d, limit, like, c, "one blocked product per group");
    return;
  }
  const int64_t pitch = lanes(p.out_channels, d);
  c.workspace = round_up(pitch * p.taps() * p.group_in() * 4, 64) +
                d.cores * round_up(kDirectPositions * pitch * 4, 64) + 4096;
  if (c.workspace > limit) {
    refuse(c, limit);
    return;
  }
  c.flops = 2.0 * static_cast<double>(p.out_positions() * pitch) *
            static_cast<double>(p.taps() * p.group_in()) / phases(p);
  c.bytes = p.operand_bytes();
  // Measured on AVX-512: the share of the peak that the kernels reach.
  const double share = p.group_in() == 1 && p.group_out() == 1 ? 0.25 : 0.3;
  c.cost = c.flops / (d.gflops * 1e9 * share) + c.bytes / (d.gbytes * 1e9) + 2 * kStepSeconds;
  c.reason = p.group_in() == 1 && p.group_out() == 1 ? "depthwise, vectors of channels"
                                                     : "few channels per group, vectors of output channels";
}

void consider_stock(const ConvProblem& p, const Device& d, Candidate& c) {
  c.flops = p.direct_flops();
  c.bytes = p.operand_bytes();
  // MLX's CPU convolution runs at 1.1-1.5 GFLOP/s whatever the machine.
  c.cost = d.kind == Device::Kind::cpu ? c.flops / 1.3e9 + 1e-5 : c.flops / (d.gflops * 1e9 * 0.7);
  c.reason = "composed of MLX's own operations";
}

}  // namespace

void consider_cpu(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like, Candidate& c) {
  switch (c.algorithm) {
    case Algorithm::winograd:
      consider_cpu_winograd(p, d, limit, like ? like->winograd.form() : WinogradForm{}, c);
      break;
    case Algorithm::taps:
      consider_gemm(p, d, limit, like, c, "one 2-D convolution per depth tap, summed in fp32 in place");
      break;
    case Algorithm::temporal:
      consider_gemm(p, d, limit, like, c, "one product per depth tap over whole frames, read in place");
      break;
    case Algorithm::pointwise:
      consider_gemm(p, d, limit, like, c, "one matrix product");
      break;
    case Algorithm::patchify:
      consider_gemm(p, d, limit, like, c, "one matrix product over the patches");
      break;
    case Algorithm::grouped:
      consider_grouped(p, d, limit, like, c);
      break;
    case Algorithm::transposed:
      consider_gemm(p, d, limit, like, c, "one product per phase of the dilated input, none with zeros");
      break;
    case Algorithm::implicit_gemm:
      consider_gemm(p, d, limit, like, c, "blocked product with inputs gathered block by block");
      break;
    case Algorithm::stock:
      consider_stock(p, d, c);
      break;
  }
}

WeightGradientPlan make_weight_gradient_plan(const ConvProblem& p, const Device& d, int64_t limit) {
  WeightGradientPlan g;
  const int64_t slack = 4096 + int64_t{64} * 3 * d.cores;
  g.direct = is_direct(p);
  if (g.direct) {
    const int64_t pitch = lanes(p.out_channels, d);
    g.rows = kDirectPositions;
    g.workspace = d.cores * 4 * (pitch * p.taps() * p.group_in() + g.rows * pitch) + slack;
    if (g.workspace <= limit) return g;
    g.direct = false;
  }
  const int64_t panel = d.panel_vectors * d.vector_width, out_lanes = lanes(p.group_out(), d);
  const int64_t products = p.taps() * p.group_in();
  g.rows = 256;
  g.depth = std::clamp<int64_t>(p.kernel[2] * p.group_in(), 1, 288);
  g.cols = std::min(round_up(out_lanes, panel), round_up(int64_t{512}, panel));
  const auto thread_bytes = [&] {
    return d.cores * 4 * (g.rows * (g.depth + d.vector_width + g.cols) + g.depth * g.cols);
  };
  while (thread_bytes() + slack > limit / 2 && g.cols > panel) g.cols = round_up(g.cols / 2, panel);
  while (thread_bytes() + slack > limit / 2 && g.rows > 16) g.rows /= 2;
  const int64_t tasks = divide_up(products, g.depth) * divide_up(out_lanes, g.cols);
  const int64_t split_bytes = products * out_lanes * 4;
  // Few products: the positions are cut as well, so that all threads have work.
  if (tasks < 4 * d.cores) g.splits = divide_up(4 * d.cores, std::max<int64_t>(1, tasks));
  g.splits = std::min(g.splits, divide_up(p.out_positions(), 4 * g.rows));
  while (g.splits > 1 && g.splits * split_bytes + thread_bytes() + slack > limit) --g.splits;
  g.splits = std::max<int64_t>(1, g.splits);
  g.workspace = thread_bytes() + (g.splits > 1 ? g.splits * split_bytes : 0) + slack;
  return g;
}

}  // namespace mlx_conv3d
