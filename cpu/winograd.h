#pragma once

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/simd/tile_kernels.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

void winograd(const ConvProblem& problem, const WinogradPlan& plan, const Operands& operands,
              Workspace& workspace);

/// Transforms (O, KD, K, K, C) weights, or (O, KD, 1, K, C) ones for a form along the width, K being `side`,
/// to the layout that `winograd` multiplies with: [product][panel][terms along depth * C][lanes], or for a
/// matrix unit [product][panel][term along depth][step of C] and what TileWeightPanel says, behind a header.
void winograd_weights(WinogradForm form, const WeightView& w, int64_t out_channels, int64_t depth_taps,
                      int64_t side, int64_t channels, bool flip, float* out);

/// Weights of `channels` input channels from `channel` on at one depth tap, of the panel of `vectors` vectors
/// of output channels from `lane` on.
struct WinogradWeightBlock {
  int64_t lane, depth, channel, channels;
  int vectors;
};
/// Transforms a problem's weights of a block to [product][channel][lane], products `stride` floats apart; the
/// form has depth_m 1 and no parts.
void winograd_block_weights(WinogradForm form, const ConvProblem& problem, const WeightView& w,
                            const WinogradWeightBlock& block, float* out, int64_t stride);

/// Floats that winograd_weights writes. Throws std::invalid_argument for a form that this machine lacks the
/// matrix unit for.
int64_t winograd_weights_size(WinogradForm form, int64_t out_channels, int64_t depth_taps, int64_t channels);

/// The weights of a matrix unit behind their header.
struct WinogradTileWeights {
  const uint16_t* items;
  float scale;  ///< a power of two by which they were multiplied
};
WinogradTileWeights winograd_tile_weights(const float* weights);

/// The power of two that brings numbers whose largest magnitude has these bits to where the matrix unit loses
/// nothing; 1 where they are there, and where no factor would help (NaN, infinity).
float winograd_tile_scale(uint32_t largest);

/// Panels of output channels as the products' kernels take them.
inline Panels winograd_panels(WinogradForm form, int64_t out_channels, const Kernels& k) {
  return Panels(out_channels, k.width, form.parts > 0 ? kPanelTiles : k.panel_vectors);
}

}  // namespace mlx_conv3d::cpu
