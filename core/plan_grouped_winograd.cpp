// Winograd of grouped convolutions on a CPU: how it is cut into tasks and what it costs.

#include "core/plan_grouped_winograd.h"

#include <algorithm>
#include <string>

#include "core/cpu_model.h"
#include "core/plan_cpu.h"

namespace mlx_conv3d {

using namespace cpu_model;

namespace {

constexpr int64_t kTaskChannels = 64;
constexpr int64_t kNearBytes = 40 << 10;  ///< of a core's L1 cache
constexpr int kMostWoven = 2;  ///< with more groups to a vector rows are faster, whose products are few
/// Measured on AVX-512: the share of the peak of the short products, and a thread's floats a second of the
/// transforms, times the terms of each.
constexpr double kShortProductShare = 0.79, kTransformTerms = 2.4e10, kWeightTerms = 3.3e10;

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
  for (plan.tiles = std::min<int64_t>(across, 4); plan.tiles < across && near();) ++plan.tiles;
  if (!near() && plan.tiles > 4) --plan.tiles;
  plan.tiles = divide_up(across, divide_up(across, plan.tiles));
  const int64_t strips = grouped_winograd_strips(p, plan);
  while (plan.strips < strips && near()) ++plan.strips;
  if (!near() && plan.strips > 1) --plan.strips;
  const int64_t units = p.groups / plan.woven, chunks = divide_up(strips, plan.strips);
  const int64_t weights = GroupedWinogradSizes(p, plan, d.vector_width).unit_weights() * units;
  // All channels of a pixel in one task: hardware fetches ahead what is read in order. Each thread then needs
  // all weights, for which its second-level cache must have room.
  if (8 * weights <= 3 * d.cache_bytes && chunks >= 2 * d.cores) {
    plan.units = units;
    plan.pieces = std::min<int64_t>(chunks, 4 * d.cores);
    return plan;
  }
  const int64_t channels = std::max(p.group_in(), p.group_out()) * plan.woven;
  while (2 * plan.units * channels <= kTaskChannels && divide_up(units, 2 * plan.units) >= 4 * d.cores) {
    plan.units *= 2;
  }
  plan.pieces = std::min(strips, divide_up(2 * d.cores, divide_up(units, plan.units)));
  plan.strips = std::min(plan.strips, divide_up(strips, plan.pieces));
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
  const double tiles = static_cast<double>(p.output(kDepth) * winograd_tiles(p, plan.form()));
  const double in = static_cast<double>(p.in_channels), out = static_cast<double>(p.out_channels);
  const double weights = products * out * static_cast<double>(p.group_in());
  return {2.0 * weights * tiles, products * tiles * (in + out), weights};
}

/// Of making them in each thread that needs them, or of reading what the caches do not hold of prepared ones.
double weight_seconds(const ConvProblem& p, const Device& d, const GroupedWinogradPlan& plan, double floats) {
  const auto threads = static_cast<double>(std::min<int64_t>(plan.pieces, d.cores));
  const auto cores = static_cast<double>(d.cores);
  if (!p.prepared) return floats * threads * (plan.m + 1) / (kWeightTerms * cores * core_scale(d));
  return std::max(0.0, 4 * floats - cores * static_cast<double>(d.cache_bytes)) / (d.gbytes * 1e9);
}

}  // namespace

int grouped_winograd_woven(const ConvProblem& p, int vector_width) {
  const bool fill = vector_width % p.group_out() == 0 && p.group_in() == p.group_out();
  const int64_t groups = vector_width / p.group_out();
  return fill && groups > 1 && groups <= kMostWoven && vector_width >= 8 && p.groups % groups == 0
             ? static_cast<int>(groups)
             : 1;
}

int64_t grouped_winograd_strips(const ConvProblem& p, const GroupedWinogradPlan& plan) {
  const WinogradAxis rows(p, plan.form(), kHeight), cols(p, plan.form(), kWidth);
  return p.batch * p.output(kDepth) * rows.tiles * divide_up(cols.tiles, plan.tiles);
}

void consider_grouped_winograd(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like,
                               Candidate& c) {
  if (!fits(p, d) || (like != nullptr && like->grouped_winograd.m == 0)) return;
  for (int m : {2, 4}) {
    if (like != nullptr && like->grouped_winograd.m != m) continue;
    const GroupedWinogradPlan plan = plan_of(p, d, m);
    const int64_t workspace = workspace_of(p, d, plan);
    if (workspace > limit) continue;
    const Work work = work_of(p, plan);
    const double cost = work.product_flops / (d.gflops * 1e9 * kShortProductShare) +
                        work.transformed * (m + 1) / (kTransformTerms * d.cores * core_scale(d)) +
                        weight_seconds(p, d, plan, work.weights) + kStepSeconds;
    if (like == nullptr && cost >= c.cost) continue;
    c.grouped_winograd = plan;
    c.gemm.tile = {};
    c.cost = cost;
    c.flops = work.product_flops + 4.0 * (m + 1) * (work.transformed + (p.prepared ? 0 : work.weights));
    c.bytes = p.operand_bytes();
    c.workspace = workspace;
    const std::string side = std::to_string(m);
    c.reason = "F(" + side + "x" + side + ", 3x3) of each group";
  }
}

}  // namespace mlx_conv3d
