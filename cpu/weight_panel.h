#pragma once

#include <cstdint>
#include <vector>

#include "core/plan.h"
#include "cpu/geometry.h"

namespace mlx_conv3d::cpu {

/// Packs one panel of a block of products of group g: [product][lane], or [output][product] where few outputs
/// make the products narrow. `offsets` are the products' weight element offsets; `block` is where the block's
/// first panel starts, the others behind it.
void pack_weight_panel(const ConvProblem& problem, const WeightView& w, int64_t g, const Panels& panels,
                       int64_t panel, const std::vector<int64_t>& offsets, float* block);

/// One phase's weights as [vector of output channels][product][lane], lanes without a channel zero; `offsets`
/// are the products' weight element offsets.
void pack_vectors(const WeightView& w, int64_t out_channels, const std::vector<int64_t>& offsets, float* out);

}  // namespace mlx_conv3d::cpu
