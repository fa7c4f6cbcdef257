// Winograd of grouped convolutions on a CPU: how it is cut into tasks and what it costs.

#include "core/plan_grouped_winograd.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/cpu_model.h"

namespace mlx_conv3d {

using namespace cpu_model;

namespace {

constexpr int64_t kTaskChannels = 64;
constexpr int64_t kNearBytes = 40 << 10;  ///< of a core's L1 cache
/// Measured on AVX-512: the share of the peak of the short products, and a thread's floats a second of all
/// transforms, in its cache.
constexpr double kShortProductShare = 0.6, kCachedTransformFloats = 5e9, kCachedWeightFloats = 8e9;

bool fits(const ConvProblem& p, const Device& d) {
  const Size3 kernel{1, 3, 3}, ones{1, 1, 1};
  return p.kernel == kernel && p.stride[kHeight] == 1 && p.stride[kWidth] == 1 && p.dilation[kHeight] == 1 &&
         p.dilation[kWidth] == 1 && p.input_dilation == ones && p.group_in() > 1 &&
         (p.group_out() % d.vector_width == 0 || grouped_winograd_woven(p, d.vector_width) > 1) &&
         std::max(p.group_in(), p.group_out()) <= 4 * d.vector_width && !p.empty();
}

GroupedWinogradPlan plan_of(const ConvProblem& p, const Device& d, int m) {
  GroupedWinogradPlan plan{m, grouped_winograd_woven(p, d.vector_width), 1, 1, 1, 1};
  const auto near = [&] {
    const GroupedWinogradSizes sizes(p, plan, d.vector_width);
    return 4 * (sizes.columns() + sizes.tiles()) <= kNearBytes;
  };
  const int64_t across = WinogradAxis(p, plan.form(), kWidth).tiles;
  for (int64_t parts = 1; parts == 1 || (!near() && plan.tiles > 4); ++parts) {
    plan.tiles = divide_up(across, parts);
  }
  const int64_t strips = grouped_winograd_strips(p, plan);
  for (plan.strips = strips; !near() && plan.strips > 1;) --plan.strips;
  const int64_t units = p.groups / plan.woven, chunks = divide_up(strips, plan.strips);
  const int64_t weights = GroupedWinogradSizes(p, plan, d.vector_width).unit_weights() * units;
  if (!getenv("CH") && 8 * weights <= 3 * d.cache_bytes && chunks >= 2 * d.cores) {
    plan.units = units;
    plan.pieces = std::min<int64_t>(chunks, 4 * d.cores);
  } else {
    const int64_t channels = std::max(p.group_in(), p.group_out()) * plan.woven;
    while (2 * plan.units * channels <= kTaskChannels && divide_up(units, 2 * plan.units) >= 4 * d.cores) {
      plan.units *= 2;
    }
    plan.pieces = std::min(strips, divide_up(2 * d.cores, divide_up(units, plan.units)));
    plan.strips = std::min(plan.strips, divide_up(strips, plan.pieces));
  }
  return plan;
}

int64_t workspace_of(const ConvProblem& p, const Device& d, const GroupedWinogradPlan& plan) {
  const GroupedWinogradSizes sizes(p, plan, d.vector_width);
  return d.cores * 4 * (sizes.weights() + sizes.columns() + 2 * sizes.tiles()) + 4096;
}

struct Work {
  double product_flops, transformed, weights;  ///< the latter two in floats
};
Work work_of(const ConvProblem& p, const GroupedWinogradPlan& plan) {
  const double products = plan.form().all_products();
  const double tiles =
      static_cast<double>(p.batch * p.output(kDepth) * WinogradAxis(p, plan.form(), kHeight).tiles *
                          WinogradAxis(p, plan.form(), kWidth).tiles);
  const double in = static_cast<double>(p.in_channels), out = static_cast<double>(p.out_channels);
  return {2.0 * products * tiles * out * static_cast<double>(p.group_in()), products * tiles * (in + out),
          products * out * static_cast<double>(p.group_in() * plan.pieces)};
}

}  // namespace

int grouped_winograd_woven(const ConvProblem& p, int vector_width) {
  const bool fill = vector_width % p.group_out() == 0 && p.group_in() == p.group_out();
  const int64_t groups = vector_width / p.group_out();
  return fill && groups > 1 && p.groups % groups == 0 ? static_cast<int>(groups) : 1;
}

int64_t grouped_winograd_strips(const ConvProblem& p, const GroupedWinogradPlan& plan) {
  const WinogradAxis rows(p, plan.form(), kHeight), cols(p, plan.form(), kWidth);
  return p.batch * p.output(kDepth) * rows.tiles * divide_up(cols.tiles, plan.tiles);
}

void consider_grouped_winograd(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like,
                               Candidate& c) {
  if (!fits(p, d) || (like != nullptr && like->grouped_winograd.m == 0)) return;
  if (getenv("NOW")) return;
  for (int m : {2, 4}) {
    if (getenv("FM") && m != atoi(getenv("FM"))) continue;
    if (like != nullptr && like->grouped_winograd.m != m) continue;
    const GroupedWinogradPlan plan = plan_of(p, d, m);
    const int64_t workspace = workspace_of(p, d, plan);
    if (workspace > limit) continue;
    const Work work = work_of(p, plan);
    const double scale = d.gflops * 1e9 / d.cores / kCoreFlops;
    const double cost = work.product_flops / (d.gflops * 1e9 * kShortProductShare) +
                        work.transformed / (kCachedTransformFloats * d.cores * scale) +
                        (p.prepared ? 0 : work.weights) / (kCachedWeightFloats * d.cores * scale) +
                        kStepSeconds;
    if (!getenv("FM") && like == nullptr && cost >= c.cost) continue;
    c.grouped_winograd = plan;
    c.gemm.tile = {};
    c.cost = cost;
    c.flops = work.product_flops + 4.0 * (m + 1) * (work.transformed + work.weights);
    c.bytes = p.operand_bytes();
    c.workspace = workspace;
    const std::string side = std::to_string(m);
    c.reason = "F(" + side + "x" + side + ", 3x3) of each group";
  }
}

}  // namespace mlx_conv3d
