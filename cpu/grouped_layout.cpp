#include "cpu/grouped_layout.h"

#include <algorithm>

#include "core/plan_grouped.h"

namespace mlx_conv3d::cpu {

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

}  // namespace mlx_conv3d::cpu
