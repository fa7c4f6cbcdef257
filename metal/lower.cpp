#include "metal/lower.h"

#include <stdexcept>
#include <utility>

#include "core/winograd_form.h"
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

namespace {

/// A single row's Program along depth, whose operands keep the shapes that they have.
Program lower_row(const ConvProblem& p, const Candidate& candidate, Layout layout) {
  std::swap(layout.x.d, layout.x.w);
  std::swap(layout.w.d, layout.w.w);
  Program program = lower(with_axes(p, kRowAlongDepth), candidate, layout);
  for (Buffer& buffer : program.buffers) {
    if (buffer.role != Role::scratch && buffer.shape.size() == 5) std::swap(buffer.shape[1], buffer.shape[3]);
  }
  return program;
}

}  // namespace

Program lower(const ConvProblem& p, const Candidate& candidate, const Layout& layout) {
  const bool row = candidate.algorithm == Algorithm::winograd && winograd_line_axis(p.kernel) == kWidth;
  if (row && is_single_row(p)) return lower_row(p, candidate, layout);
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
