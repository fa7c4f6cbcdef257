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

}  // namespace mlx_conv3d::cpu
