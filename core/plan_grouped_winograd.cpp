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
/// Measured on AVX-512: the share of the peak of the short products, and a thread's floats a second of the
/// transforms, times the terms of each.
constexpr double kShortProductShare = 0.79, kTransformTerms = 2.4e10, kWeightTerms = 3.3e10;
/// The same of tiles of one row; how many of them a strip has, and output rows.
constexpr double kRowProductShare = 0.85, kRowFloats = 1.3e10, kRowWeightFloats = 1.2e10;
constexpr int64_t kRowTiles = 2, kRowBand = 7;

struct Form {
  int m;
  bool rows;
};
constexpr Form kForms[] = {{2, false}, {4, false}, {4, true}};

bool fits(const ConvProblem& p, const Device& d, bool rows) {
  const Size3 kernel{1, 3, 3}, ones{1, 1, 1};
  return p.kernel == kernel && p.stride[kHeight] == 1 && p.stride[kWidth] == 1 && p.dilation[kHeight] == 1 &&
         p.dilation[kWidth] == 1 && p.input_dilation == ones && p.group_in() > 1 &&
         (p.group_out() % d.vector_width == 0 || (rows && grouped_winograd_woven(p, d.vector_width) > 1)) &&
         std::max(p.group_in(), p.group_out()) <= 4 * d.vector_width && !p.empty();
}

GroupedWinogradPlan plan_of(const ConvProblem& p, const Device& d, int m) {
  GroupedWinogradPlan plan{m, 1, 1, 1, 1, 1};
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
  const int64_t units = p.groups, chunks = divide_up(strips, plan.strips);
  const int64_t weights = GroupedWinogradSizes(p, plan, d.vector_width).unit_weights() * units;
  // All channels of a pixel in one task: hardware fetches ahead what is read in order. Each thread then needs
  // all weights, for which its second-level cache must have room.
  if (8 * weights <= 3 * d.cache_bytes && chunks >= 2 * d.cores) {
    plan.units = units;
    plan.pieces = std::min<int64_t>(chunks, 4 * d.cores);
    return plan;
  }
  const int64_t channels = std::max(p.group_in(), p.group_out());
  while (2 * plan.units * channels <= kTaskChannels && divide_up(units, 2 * plan.units) >= 4 * d.cores) {
    plan.units *= 2;
  }
  plan.pieces = std::min(strips, divide_up(2 * d.cores, divide_up(units, plan.units)));
  plan.strips = std::min(plan.strips, divide_up(strips, plan.pieces));
  return plan;
}

/// Tiles of one row. Of data beyond the caches all channels of a pixel are in one task, where each thread has
/// room for all weights, so that hardware fetches ahead.
GroupedWinogradPlan row_plan_of(const ConvProblem& p, const Device& d) {
  GroupedWinogradPlan plan{4, grouped_winograd_woven(p, d.vector_width), 1, 1, 1, 1, true, 1};
  plan.tiles = std::min<int64_t>(kRowTiles, WinogradAxis(p, plan.form(), kWidth).tiles);
  const int64_t height = p.output(kHeight), units = p.groups / plan.woven;
  const auto band = [&](int64_t most) { return divide_up(height, divide_up(height, most)); };
  const int64_t weights = GroupedRowSizes(p, plan, d.vector_width).unit_weights() * units;
  const bool beyond = p.operand_bytes() > static_cast<double>(d.cores * d.cache_bytes);
  const int64_t frames = p.batch * p.output(kDepth), chunks = frames * divide_up(height, band(kRowBand));
  if (beyond && 8 * weights <= 3 * d.cache_bytes && chunks >= 2 * d.cores) {
    plan.band = band(kRowBand);
    plan.units = units;
    plan.pieces = std::min<int64_t>(chunks, 4 * d.cores);
    return plan;
  }
  plan.band = band(2 * kRowBand);
  const int64_t blocks = std::min<int64_t>(units, 4 * d.cores);
  plan.units = divide_up(units, blocks);
  plan.pieces = std::min(frames * divide_up(height, plan.band), divide_up(2 * d.cores, blocks));
  return plan;
}

int64_t workspace_of(const ConvProblem& p, const Device& d, const GroupedWinogradPlan& plan) {
  if (plan.rows) {
    const GroupedRowSizes rows(p, plan, d.vector_width);
    return d.cores * 4 * (plan.units * rows.unit_weights() + rows.inputs() + rows.sums() + 3 * 16) + 4096;
  }
  const GroupedWinogradSizes sizes(p, plan, d.vector_width);
  return d.cores * 4 * (sizes.weights() + sizes.columns() + 2 * sizes.tiles()) + 4096;
}

struct Work {
  double product_flops, transformed, weights;  ///< the latter two in floats
};
Work work_of(const ConvProblem& p, const GroupedWinogradPlan& plan) {
  const double products = plan.form().all_products(), rows = plan.form().products();
  const double tiles = static_cast<double>(
      p.output(kDepth) * (plan.rows ? p.batch * p.output(kHeight) * WinogradAxis(p, plan.form(), kWidth).tiles
                                    : winograd_tiles(p, plan.form())));
  const double in = static_cast<double>(p.in_channels), out = static_cast<double>(p.out_channels);
  const double weights = products * out * static_cast<double>(p.group_in());
  return {2.0 * weights * tiles, (plan.rows ? rows : products) * tiles * (in + out), weights};
}

/// Of making them in each thread that needs them, or of reading what the caches do not hold of prepared ones.
double weight_seconds(const ConvProblem& p, const Device& d, const GroupedWinogradPlan& plan, double floats) {
  const auto threads = static_cast<double>(std::min<int64_t>(plan.pieces, d.cores));
  const auto cores = static_cast<double>(d.cores);
  if (!p.prepared && plan.rows) return floats * threads / (kRowWeightFloats * cores * core_scale(d));
  if (!p.prepared) return floats * threads * (plan.m + 1) / (kWeightTerms * cores * core_scale(d));
  return std::max(0.0, 4 * floats - cores * static_cast<double>(d.cache_bytes)) / (d.gbytes * 1e9);
}

double seconds_of(const ConvProblem& p, const Device& d, const GroupedWinogradPlan& plan, const Work& work) {
  const double share = plan.rows ? kRowProductShare : kShortProductShare;
  const double floats = plan.rows ? kRowFloats : kTransformTerms / (plan.m + 1);
  return work.product_flops / (d.gflops * 1e9 * share) +
         work.transformed / (floats * d.cores * core_scale(d)) + weight_seconds(p, d, plan, work.weights) +
         kStepSeconds;
}

}  // namespace

int grouped_winograd_woven(const ConvProblem& p, int vector_width) {
  return vector_width >= 8 ? woven_groups(p, vector_width) : 1;
}

int64_t grouped_winograd_strips(const ConvProblem& p, const GroupedWinogradPlan& plan) {
  const WinogradAxis rows(p, plan.form(), kHeight), cols(p, plan.form(), kWidth);
  return p.batch * p.output(kDepth) * rows.tiles * divide_up(cols.tiles, plan.tiles);
}

void consider_grouped_winograd(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like,
                               Candidate& c) {
  if (like != nullptr && like->grouped_winograd.m == 0) return;
  for (const Form& form : kForms) {
    if (!fits(p, d, form.rows)) continue;
    const GroupedWinogradPlan plan = form.rows ? row_plan_of(p, d) : plan_of(p, d, form.m);
    if (like != nullptr && like->grouped_winograd.form() != plan.form()) continue;
    const int64_t workspace = workspace_of(p, d, plan);
    if (workspace > limit) continue;
    const Work work = work_of(p, plan);
    const double cost = seconds_of(p, d, plan, work);
    if (like == nullptr && cost >= c.cost) continue;
    c.grouped_winograd = plan;
    c.gemm.tile = {};
    c.cost = cost;
    c.flops = work.product_flops + 4.0 * (form.m + 1) * (work.transformed + (p.prepared ? 0 : work.weights));
    c.bytes = p.operand_bytes();
    c.workspace = workspace;
    const std::string side = std::to_string(form.m);
    c.reason = form.rows ? "F(" + side + ", 3) along each row of each group"
                         : "F(" + side + "x" + side + ", 3x3) of each group";
  }
}

}  // namespace mlx_conv3d
