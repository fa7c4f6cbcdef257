#pragma once

#include <vector>

#include "core/plan.h"
#include "cpu/geometry.h"

namespace mlx_conv3d::cpu {

/// A grouped problem's weights in the transform domain, unit by unit: [panel][product][c][lane] each, or of
/// tiles of one row [vector][frequency][c][tap along the height][lane].
class GroupedWinogradWeights {
 public:
  GroupedWinogradWeights(const ConvProblem& problem, const GroupedWinogradPlan& plan, const WeightView& w);

  const Panels& panels() const { return panels_; }
  int64_t units() const { return p_.groups / plan_.woven; }
  int64_t unit_floats() const;
  void transform(int64_t unit, float* out) const;
  void transform(int64_t first_unit, int64_t last_unit, float* out) const;

 private:
  void transform_rows(int64_t unit, float* out) const;

  const ConvProblem& p_;
  const GroupedWinogradPlan& plan_;
  const WeightView w_;
  const Kernels& k_;
  const GroupedWinogradSizes sizes_;
  const Panels panels_;
  std::vector<int32_t> order_;  ///< of a woven vector's lanes
};

/// All units' weights (O, 1, 3, 3, C/groups) in advance, as `grouped_winograd` takes them.
void grouped_winograd_weights(WinogradForm form, const WeightView& w, int64_t out_channels, int64_t channels,
                              int64_t groups, bool flip, float* out);
/// Floats that it writes.
int64_t grouped_winograd_weights_size(WinogradForm form, int64_t out_channels, int64_t channels,
                                      int64_t groups);

}  // namespace mlx_conv3d::cpu
