#include "core/plan_gpu.h"

#include "core/gpu_model.h"
#include "core/stock_route.h"
#include "metal/lower.h"

namespace mlx_conv3d {

using namespace gpu;

namespace {

void consider_grouped(const ConvProblem& p, const Device& d, Candidate& c) {
  if (!metal::has_grouped_kernel(p)) {
    c.legal = false;
    c.reason = "it needs a result of the type that x and w promote to";
    return;
  }
  if (p.input_dilated()) {
    c.legal = false;
    c.reason = "it needs input dilation 1";
    return;
  }
  c.flops = p.direct_flops();
  c.bytes = p.operand_bytes();
  c.cost = c.flops / (peak_flops(d) * kDirectShare) + transfer_seconds(c.bytes, d) + kStepSeconds;
  c.reason =
      p.group_in() == 1 && p.group_out() == 1 ? "depthwise, one thread per output" : "one thread per output";
}

}  // namespace

void consider_gpu(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  if (c.algorithm == Algorithm::stock) {
    const StockRoute r = stock_route(p, d);
    c.flops = r.flops;
    c.bytes = r.bytes;
    c.cost = r.seconds;
    c.workspace = r.workspace;
    c.reason = std::string("MLX's own: ") + r.name;
    return;
  }
  if (c.algorithm == Algorithm::winograd) {
    consider_gpu_winograd(p, d, limit, c);
    return;
  }
  if (c.algorithm == Algorithm::grouped && is_direct(p)) {
    consider_grouped(p, d, c);
    return;
  }
  consider_gpu_gemm(p, d, limit, c);
}

}  // namespace mlx_conv3d
