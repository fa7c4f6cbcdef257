#pragma once

#include "core/plan.h"
#include "cpu/gather_gemm.h"
#include "cpu/geometry.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// gather_gemm's products on the matrix unit, whose left operand is read in place from a slab of padded
/// input. False, with nothing promised of the output, where the data are not fit for it (tiles_hold): the
/// caller then runs gather_gemm.
bool tile_gemm(const ConvProblem& problem, const TilePlan& plan, const Operands& operands, bool split_phases,
               Workspace& workspace);

/// One of the two, as the plan says and the data allow.
void blocked_products(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands,
                      const GatherGemmOptions& options, Workspace& workspace);

/// Steps of 32 products between which sums lie in memory. A single product takes the tiles no longer than
/// loading them from the L2 cache does, so that a block of the panel should stay in L1; six round a sum six
/// times, so that a block's sum begins anew and is added to those before. Pairs load less for their time.
inline int64_t tile_block_steps(const TilePlan& plan) {
  return plan.parts == 1 && !plan.pairs ? 16 : plan.parts == 2 ? 48 : 32;
}

/// What a run takes.
struct TileNeeds {
  int64_t weight_items = 0;  ///< packed, of one group
  int64_t block_items = 0;   ///< of weights that one thread packs for itself
  int64_t slab_items = 0;    ///< of one thread
  int64_t sum_floats = 0;    ///< of one thread
  double products = 0;       ///< of 32-item steps: tiles of 16x16 sums x steps, over all groups
  double packed_items = 0;   ///< written into slabs, all parts as one; or looked at in place
};
TileNeeds tile_needs(const ConvProblem& problem, const TilePlan& plan, bool split_phases);

}  // namespace mlx_conv3d::cpu
