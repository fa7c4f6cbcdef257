#include "cpu/weight_panel.h"

#include "core/integers.h"
#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

/// Weights that are worth a parallel loop.
constexpr int64_t kLeastPacked = 1 << 16;

void pack_narrow(const ConvProblem& p, const WeightView& w, int64_t g, const std::vector<int64_t>& offsets,
                 float* block) {
  const int64_t k = static_cast<int64_t>(offsets.size());
  for (int64_t o = 0; o < p.group_out(); ++o) {
    const auto* from = static_cast<const char*>(weights_from(w, g * p.group_out() + o).data);
    for (int64_t i = 0; i < k; ++i)
      kernels().to_float(w.type, from + offsets[i] * item_size(w.type), block + o * k + i, 1);
  }
}

}  // namespace

void pack_weight_panel(const ConvProblem& p, const WeightView& w, int64_t g, const Panels& panels,
                       int64_t panel, const std::vector<int64_t>& offsets, float* block) {
  if (is_narrow(p, kernels().width)) return pack_narrow(p, w, g, offsets, block);
  const Kernels& k = kernels();
  const int64_t lane = panels.first_vector(panel) * k.width;
  GemmWeightPanel out{};
  out.w = weights_from(w, g * p.group_out() + lane);
  out.offsets = offsets.data();
  out.k = static_cast<int64_t>(offsets.size());
  out.out_channels = p.group_out() - lane;
  out.vectors = panels.vectors(panel);
  out.out = block + lane * out.k;
  k.pack_weight(out);
}

void pack_vectors(const WeightView& w, int64_t out_channels, const std::vector<int64_t>& offsets,
                  float* out) {
  const Kernels& k = kernels();
  const int64_t count = static_cast<int64_t>(offsets.size()), vectors = divide_up(out_channels, k.width);
  const auto pack = [&](int64_t v, int) {
    GemmWeightPanel panel{};
    panel.w = weights_from(w, v * k.width);
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
