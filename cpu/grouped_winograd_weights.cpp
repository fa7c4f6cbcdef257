// Weights of groups in the transform domain, for a task or for many calls.

#include "cpu/grouped_winograd_weights.h"

#include "cpu/grouped_layout.h"
#include "cpu/threads.h"
#include "cpu/winograd.h"

namespace mlx_conv3d::cpu {
namespace {

ConvProblem problem_of(int64_t out_channels, int64_t channels, int64_t groups, bool flip) {
  ConvProblem p;
  p.out_channels = out_channels;
  p.in_channels = channels * groups;
  p.groups = groups;
  p.kernel = {1, 3, 3};
  p.flip = flip;
  return p;
}

GroupedWinogradPlan plan_of(WinogradForm form, const ConvProblem& p) {
  GroupedWinogradPlan plan{form.m, form.row_taps > 0 ? grouped_winograd_woven(p, kernels().width) : 1};
  plan.rows = form.row_taps > 0;
  return plan;
}

}  // namespace

GroupedWinogradWeights::GroupedWinogradWeights(const ConvProblem& p, const GroupedWinogradPlan& plan,
                                               const WeightView& w)
    : p_(p),
      plan_(plan),
      w_(w),
      k_(kernels()),
      sizes_(p, plan, k_.width),
      panels_(winograd_panels(plan.form(), sizes_.out_channels, k_)) {
  if (plan.woven > 1) order_ = woven_order(p.group_out(), plan.woven, k_.width);
}

int64_t GroupedWinogradWeights::unit_floats() const {
  return plan_.rows ? GroupedRowSizes(p_, plan_, k_.width).unit_weights() : sizes_.unit_weights();
}

void GroupedWinogradWeights::transform_rows(int64_t unit, float* out) const {
  WinogradWeightPanel part{};
  part.w = weights_from(w_, unit * sizes_.out_channels);
  part.out_channels = sizes_.out_channels;
  part.channels = p_.group_in();
  part.side = 3;
  part.flip = p_.flip;
  part.vectors = static_cast<int>(panels_.vectors_total());
  part.out = out;
  k_.winograd_row_weight(part);
  if (!order_.empty()) k_.permute_lanes(order_.data(), out, unit_floats() / k_.width);
}

void GroupedWinogradWeights::transform(int64_t unit, float* out) const {
  if (plan_.rows) return transform_rows(unit, out);
  for (int64_t panel = 0; panel < panels_.count(); ++panel) {
    const int64_t lane = panels_.first_vector(panel) * k_.width;
    const int64_t channel = unit * sizes_.out_channels + lane;
    WinogradWeightPanel part{};
    part.w = weights_from(w_, channel);
    part.out_channels = sizes_.out_channels - lane;
    part.channels = p_.group_in();
    part.side = 3;
    part.flip = p_.flip;
    part.vectors = panels_.vectors(panel);
    part.out = out + lane * p_.group_in();
    part.xi_stride = sizes_.weight_stride();
    k_.winograd_weight(plan_.form(), part);
  }
}

void GroupedWinogradWeights::transform(int64_t first_unit, int64_t last_unit, float* out) const {
  const int64_t each = unit_floats();
  for (int64_t unit = first_unit; unit < last_unit; ++unit, out += each) transform(unit, out);
}

int64_t grouped_winograd_weights_size(WinogradForm form, int64_t out_channels, int64_t channels,
                                      int64_t groups) {
  const ConvProblem p = problem_of(out_channels, channels, groups, false);
  const GroupedWinogradPlan plan = plan_of(form, p);
  const GroupedWinogradWeights weights(p, plan, {});
  return weights.units() * weights.unit_floats();
}

void grouped_winograd_weights(WinogradForm form, const WeightView& w, int64_t out_channels, int64_t channels,
                              int64_t groups, bool flip, float* out) {
  const ConvProblem p = problem_of(out_channels, channels, groups, flip);
  const GroupedWinogradPlan plan = plan_of(form, p);
  const GroupedWinogradWeights weights(p, plan, w);
  const int64_t each = weights.unit_floats();
  parallel_for(weights.units(), [&](int64_t unit, int) { weights.transform(unit, out + unit * each); });
}

}  // namespace mlx_conv3d::cpu
