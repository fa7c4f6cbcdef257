// The gathered products on Apple GPUs: what a block costs, and the cheapest.

#include <algorithm>
#include <cstdlib>

#include "core/gpu_model.h"
#include "core/plan_gpu.h"
#include "core/stock_route.h"
#include "metal/gather_gemm.h"

namespace mlx_conv3d {

using namespace gpu;

namespace {

/// Of the peak, for a block.
double gather_share(const ConvProblem& p, const metal::GatherBlock& b) {
  return std::min(kGatherShare, core_share(b.rows, b.cols, b.cols < 32 ? 1 : 2, item_size(p.x_type), 4));
}

void cost_block(const ConvProblem& p, const Device& d, const std::vector<metal::GatherPass>& passes,
                const metal::GatherBlock& block, Candidate& c) {
  const int64_t columns = divide_up(p.group_out(), block.cols) * p.groups;
  double threadgroups = 0, seconds = 0;
  for (const metal::GatherPass& pass : passes) {
    threadgroups += static_cast<double>(divide_up(pass.rows, block.rows) * columns);
  }
  c.flops = 0;
  for (const metal::GatherPass& pass : passes) {
    const double blocks = static_cast<double>(divide_up(pass.rows, block.rows) * columns);
    const double flops = 2.0 * blocks * static_cast<double>(block.rows * block.cols) *
                         static_cast<double>(round_up(pass.products, kSlab));
    // Phases may run side by side, depth taps wait for each other.
    const double busy = busy_share(passes.back().adds ? blocks : threadgroups, d);
    c.flops += flops;
    seconds += flops / (peak_flops(d) * gather_share(p, block) * busy);
  }
  const double again = static_cast<double>(passes.size() - 1);
  const double x = p.input_bytes();
  const bool cached = x <= kCacheShare * static_cast<double>(d.system_cache_bytes);
  const double sums =
      passes.back().adds ? 8.0 * static_cast<double>(p.out_positions() * p.out_channels) : 0.0;
  c.bytes = p.operand_bytes() + again * ((cached ? 0 : x) + sums);
  c.cost = kUnmeasured * std::max(seconds, transfer_seconds(c.bytes, d)) +
           static_cast<double>(passes.size()) * kStepSeconds;
  c.gemm = {block.rows, block.cols, kSlab, false};
}

/// Why the kernel cannot take a problem that its algorithm fits otherwise; empty if it can.
std::string obstacle(const ConvProblem& p, Algorithm algorithm, int64_t limit) {
  if (p.out_positions() > INT32_MAX - 128) return "it needs fewer output positions";
  if (p.taps() * p.group_in() > INT32_MAX - kSlab) return "it needs fewer products per output";
  for (int axis : {kDepth, kHeight, kWidth}) {
    const int64_t reach = p.output(axis) * p.stride[axis] + p.kernel[axis] * p.dilation[axis];
    if (reach + std::abs(p.pad_lo[axis]) > INT32_MAX) return "it needs shorter axes";
  }
  if (metal::count_gather_passes(p, algorithm) > kMostPasses) return "it needs a smaller input dilation";
  if (metal::gather_scratch(p, algorithm) > limit) {
    return "its workspace does not fit the limit of " + std::to_string(limit >> 20) + " MiB";
  }
  return "";
}

const char* description(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::taps:
      return "one 2-D convolution per depth tap, summed in fp32";
    case Algorithm::temporal:
      return "one product over the depth taps, frames read in place";
    case Algorithm::pointwise:
      return "one matrix product, read in place";
    case Algorithm::patchify:
      return "one matrix product over the patches";
    case Algorithm::grouped:
      return "one blocked product per group, in one dispatch";
    case Algorithm::transposed:
      return "one product per phase of the dilated input, none with zeros";
    default:
      return "blocked product with inputs gathered slab by slab";
  }
}

}  // namespace

void consider_gpu_gemm(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  c.reason = obstacle(p, c.algorithm, limit);
  c.legal = c.reason.empty();
  if (!c.legal) return;
  const auto blocks = metal::gather_blocks(p);
  c.gemm = {blocks.front().rows, blocks.front().cols, kSlab, false};
  c.reason = "the output is empty";
  if (p.empty()) return;
  c.workspace = metal::gather_scratch(p, c.algorithm);
  const auto passes = metal::gather_passes(p, c.algorithm);
  Candidate best;
  for (const metal::GatherBlock& block : blocks) {
    Candidate at = c;
    cost_block(p, d, passes, block, at);
    if (best.cost == 0 || at.cost < best.cost) best = at;
  }
  c = best;
  if (c.algorithm == Algorithm::taps) c.cost *= 1.005;
  if (c.algorithm == Algorithm::implicit_gemm) c.cost *= 1.01;
  c.reason = description(c.algorithm) + compared(c, "stock", stock_route(p, d).seconds);
}

}  // namespace mlx_conv3d
