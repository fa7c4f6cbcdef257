// dL/dw of grouped convolutions, unit by unit: how it is cut into tasks.

#include "core/plan_unit_gradient.h"

#include <algorithm>

#include "core/grouped_kernels.h"
#include "core/integers.h"
#include "core/plan.h"
#include "core/plan_grouped.h"

namespace mlx_conv3d {
namespace {

constexpr int64_t kNearBytes = 32 << 10;  ///< of a core's L1 cache
constexpr int64_t kTaskChannels = 64;
/// Inputs that a vector of dL/dy is multiplied by at a time; with fewer it is loaded too often.
constexpr int64_t kLeastRun = 8;

bool fits(const ConvProblem& p) {
  const int64_t run = p.dilation[kWidth] == 1 && !p.flip ? p.kernel[kWidth] * p.group_in() : p.group_in();
  return p.groups > 1 && !p.input_dilated() && !p.empty() && run >= kLeastRun &&
         p.group_in() <= kMostBroadcastInputs;
}

/// As large as the L1 cache has room for, columns first.
void fit_band(const ConvProblem& p, int vector_width, UnitGradientPlan& plan) {
  const auto near = [&] {
    const UnitGradientSizes sizes(p, plan, vector_width);
    return 4 * (sizes.inputs() + sizes.cotangents()) <= kNearBytes;
  };
  const int64_t height = p.output(kHeight), width = p.output(kWidth);
  plan.band = 1;
  plan.cols = width;
  while (!near() && plan.cols > 16) plan.cols = divide_up(plan.cols, 2);
  plan.cols = divide_up(width, divide_up(width, plan.cols));
  while (plan.band < height && near()) ++plan.band;
  if (!near() && plan.band > 1) --plan.band;
  plan.band = divide_up(height, divide_up(height, plan.band));
}

}  // namespace

UnitGradientSizes::UnitGradientSizes(const ConvProblem& p, const UnitGradientPlan& plan, int vector_width)
    : pixel(p.group_in() * plan.woven),
      lanes(p.group_out() * plan.woven),
      products(p.taps() * p.group_in()),
      band(plan.band),
      rows(grouped_band_rows(p, plan.band)),
      // Pixels are written in whole vectors.
      row(round_up(input_span(p, kWidth, plan.cols) * pixel + vector_width, 16)),
      dy_row(plan.cols * lanes) {}

int64_t unit_gradient_bands(const ConvProblem& p, const UnitGradientPlan& plan) {
  return p.batch * p.output(kDepth) * divide_up(p.output(kHeight), plan.band) *
         divide_up(p.output(kWidth), plan.cols);
}

UnitGradientPlan make_unit_gradient_plan(const ConvProblem& p, const Device& d) {
  UnitGradientPlan plan;
  if (!fits(p)) return plan;
  const int woven = woven_groups(p, d.vector_width);
  if (woven == 1 && p.group_out() % d.vector_width != 0) return plan;
  plan.woven = woven;
  fit_band(p, d.vector_width, plan);
  const int64_t units = p.groups / plan.woven;
  const UnitGradientSizes sizes(p, plan, d.vector_width);
  plan.units = 1;
  // Neighbouring channels in one task: what it reads of a pixel are then neighbouring lines.
  while (2 * plan.units * std::max(sizes.pixel, sizes.lanes) <= kTaskChannels &&
         divide_up(units, 2 * plan.units) >= 4 * d.cores &&
         8 * plan.units * sizes.unit_sums() * 4 <= d.cache_bytes) {
    plan.units *= 2;
  }
  const int64_t tasks = divide_up(units, plan.units);
  if (tasks < 2 * d.cores && tasks % d.cores != 0) {
    plan.splits = std::min(unit_gradient_bands(p, plan), divide_up(2 * d.cores, tasks));
  }
  return plan;
}

int64_t unit_gradient_workspace(const ConvProblem& p, const Device& d, const UnitGradientPlan& plan) {
  const UnitGradientSizes sizes(p, plan, d.vector_width);
  const int64_t all = p.groups / plan.woven * sizes.unit_sums();
  const int64_t sums = plan.splits > 1 ? plan.splits * all : d.cores * plan.units * sizes.unit_sums();
  return 4 * (sums + d.cores * (sizes.inputs() + sizes.cotangents())) + 64 * (1 + 3 * d.cores) + 4096;
}

}  // namespace mlx_conv3d
