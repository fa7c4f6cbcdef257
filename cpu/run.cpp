#include "cpu/run.h"

#include <string>

#include "cpu/grouped.h"
#include "cpu/simd/tile_kernels.h"
#include "cpu/threads.h"
#include "cpu/tile_gemm.h"
#include "cpu/weight_gradient.h"
#include "cpu/winograd.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {
namespace {

// About 10 us of work, in which a sleeping thread does not even wake up.
constexpr double kSmallFlops = 1e6;

bool is_small(const ConvProblem& p) { return p.direct_flops() < kSmallFlops; }

/// The operands of fold_patches, patches and weights being contiguous: a pixel for each patch.
Operands of_patches(Operands operands) {
  operands.x.stride[3] = operands.x.stride[0];
  return operands;
}

}  // namespace

void run(const ConvProblem& problem, const Candidate& plan, const Operands& operands) {
  if (problem.empty()) return;
  advise_huge_pages(operands.y, problem.out_positions() * problem.out_channels * item_size(problem.out_type));
  const OneThread one(is_small(problem));
  Workspace workspace(plan.workspace);
  switch (plan.algorithm) {
    case Algorithm::winograd:
      return winograd(problem, plan.winograd, operands, workspace);
    case Algorithm::grouped:
      return grouped(problem, plan, operands, workspace);
    case Algorithm::taps:
      return gather_gemm(problem, plan.gemm, operands, {.one_depth_tap_at_a_time = true}, workspace);
    case Algorithm::transposed:
      return blocked_products(problem, plan.gemm, operands, {.split_phases = true}, workspace);
    case Algorithm::patchify:
      if (plan.gemm.whole_patches) {
        return blocked_products(fold_patches(problem), plan.gemm, of_patches(operands), {}, workspace);
      }
      return blocked_products(problem, plan.gemm, operands, {}, workspace);
    case Algorithm::pointwise:
    case Algorithm::temporal:
    case Algorithm::implicit_gemm:
      return blocked_products(problem, plan.gemm, operands, {}, workspace);
    case Algorithm::stock:
      break;  // composed of MLX's own operations, see core/stock.cpp
  }
}

void run_weight_gradient(const ConvProblem& problem, const WeightGradientPlan& plan, const Operands& operands,
                         Dtype dy_type, const void* dy, void* dw) {
  const OneThread one(is_small(problem));
  Workspace workspace(plan.workspace);
  weight_gradient(problem, plan, operands, dy_type, dy, dw, workspace);
}

Device describe() {
  const Kernels& k = kernels();
  Device device;
  device.kind = Device::Kind::cpu;
  device.name = std::string("cpu (") + k.isa + ", " + std::to_string(thread_count()) + " threads)";
  device.cores = thread_count();
  device.vector_width = k.width;
  device.panel_vectors = k.panel_vectors;
  // Two multiply-adds of a vector per cycle at about 2.1 GHz; SSE has no fused one.
  device.gflops = device.cores * 2.1 * k.width * (k.width == 4 && k.panel_vectors == 2 ? 2 : 4);
  if (k.tiles != nullptr) {
    // One product of 16x16x32 every 16 cycles, or of pairs as many vectors as of single numbers.
    device.matrix_gflops = k.tiles->splits ? device.cores * 2.1 * 1024 : 2 * device.gflops;
    device.matrix_half = k.tiles->half;
    device.matrix_splits = k.tiles->splits;
  }
  device.gbytes = 8.0 * device.cores;
  device.cache_bytes = int64_t{1} << 20;
  return device;
}

const char* isa() { return kernels().isa; }
int threads() { return thread_count(); }
void trim(int64_t bytes) { trim_workspace(bytes); }

}  // namespace mlx_conv3d::cpu
