#include "metal/lower.h"

#include <stdexcept>

#include "metal/builder.h"

namespace mlx_conv3d::metal {

Layout row_major(const ConvProblem& p) {
  Layout layout{};
  const int64_t c = p.in_channels, w = p.input[2] * c, h = p.input[1] * w;
  layout.x = {p.input[0] * h, h, w, c, 1};
  layout.lead = {p.lead * h, h, w, c, 1};
  const int64_t kw = p.group_in(), kh = p.kernel[2] * kw, kd = p.kernel[1] * kh;
  layout.w = {p.kernel[0] * kd, kd, kh, kw, 1};
  return layout;
}

Program lower(const ConvProblem& p, const Candidate& candidate, const Layout& layout) {
  Builder builder(p, layout);
  if (p.empty()) return builder.program;
  switch (candidate.algorithm) {
    case Algorithm::winograd:
      lower_winograd(p, candidate, layout, builder);
      break;
    case Algorithm::grouped:
      if (is_direct(p)) {
        lower_grouped(p, layout, builder);
      } else {
        lower_gather_gemm(p, candidate, layout, builder);
      }
      break;
    case Algorithm::stock:
      throw std::invalid_argument("[lower] stock MLX does its work without a Program.");
    default:
      lower_gather_gemm(p, candidate, layout, builder);
  }
  return builder.program;
}

}  // namespace mlx_conv3d::metal
