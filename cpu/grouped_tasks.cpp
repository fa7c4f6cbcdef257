#include "cpu/grouped_tasks.h"

#include "core/integers.h"

namespace mlx_conv3d::cpu {

GroupedTasks::GroupedTasks(const ConvProblem& p, const Input& input, bool with_sources)
    : p_(p),
      k_(kernels()),
      input_(input),
      d_(axis_phases(p, kDepth, false, with_sources).front()),
      h_(axis_phases(p, kHeight, false).front()),
      phases_(row_phases(p, d_, h_)),
      set_(grouped_set_positions(p.out_channels, k_.width)),
      slack_(grouped_slack(p, k_.width)),
      vectors_(grouped_vectors(p.out_channels, p.group_in(), p.group_out(), k_.width)) {}

GroupedRows GroupedTasks::rows_of(int64_t positions, int64_t pixel,
                                  const std::vector<GroupedVector>& vectors) const {
  GroupedRows r{};
  r.depth_taps = d_.tap_count();
  r.row_taps = h_.tap_count();
  r.sets = divide_up(positions, set_);
  r.in_step = set_ * pixel;
  r.out_step = set_ * p_.out_channels;
  r.group_in = p_.group_in();
  r.vectors = static_cast<int64_t>(vectors.size());
  r.vector = vectors.data();
  r.out_floats = positions * p_.out_channels;
  return r;
}

}  // namespace mlx_conv3d::cpu
