#include "cpu/grouped_layout.h"

#include <algorithm>

#include "core/plan_grouped.h"

namespace mlx_conv3d::cpu {

std::vector<int64_t> winograd_columns(const ConvProblem& p, const WinogradForm& form, int64_t col_stride) {
  std::vector<int64_t> columns;
  const int64_t count = WinogradAxis(p, form, kWidth).tiles * form.m + form.side() - form.m;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t column = winograd_source(p, form, kWidth, 0, i);
    columns.push_back(column < 0 ? kNoColumn : column * col_stride);
  }
  return columns;
}

std::vector<GroupedVector> grouped_vectors(int64_t out_channels, int64_t group_in, int64_t group_out,
                                           int vector_width) {
  const int64_t floats = grouped_set_positions(out_channels, vector_width) * out_channels;
  const int64_t count = grouped_set_vectors(out_channels, vector_width);
  std::vector<GroupedVector> vectors;
  for (int64_t v = 0; v < count; ++v) {
    const int64_t out = std::min(v * vector_width, floats - vector_width);
    const int64_t in = out / group_out * group_in;
    vectors.push_back({static_cast<int32_t>(in), static_cast<int32_t>(out)});
  }
  return vectors;
}

std::vector<int32_t> woven_order(int64_t group_channels, int64_t groups, int64_t places) {
  std::vector<int32_t> order;
  for (int64_t i = 0; i < places; ++i) {
    const bool behind = i >= group_channels * groups;
    order.push_back(static_cast<int32_t>(behind ? i : i % groups * group_channels + i / groups));
  }
  return order;
}

}  // namespace mlx_conv3d::cpu
