#include "cpu/grouped_layout.h"

#include <algorithm>

#include "core/integers.h"
#include "core/plan_grouped.h"
#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

/// Weights that are worth a parallel loop.
constexpr int64_t kLeastPacked = 1 << 16;

}  // namespace

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

void pack_vectors(const WeightView& w, int64_t out_channels, const std::vector<int64_t>& offsets,
                  float* out) {
  const Kernels& k = kernels();
  const int64_t count = static_cast<int64_t>(offsets.size()), vectors = divide_up(out_channels, k.width);
  const auto pack = [&](int64_t v, int) {
    GemmWeightPanel panel{};
    panel.w = w;
    panel.w.data = static_cast<const char*>(w.data) + v * k.width * w.stride[0] * item_size(w.type);
    panel.offsets = offsets.data();
    panel.k = count;
    panel.out_channels = out_channels - v * k.width;
    panel.vectors = 1;
    panel.out = out + v * k.width * count;
    k.pack_weight(panel);
  };
  const OneThread one(vectors * count * k.width <= kLeastPacked);
  parallel_for(vectors, pack);
}

}  // namespace mlx_conv3d::cpu
