// Grouped convolution on Metal: one step, a thread per output.

#include <algorithm>

#include "metal/builder.h"

namespace mlx_conv3d::metal {

std::string grouped_kernel(const ConvProblem& p) {
  return std::string("grouped_") + name_of(p.x_type) + "_" + name_of(p.w_type) + "_" + name_of(p.out_type);
}

bool has_grouped_kernel(const ConvProblem& p) {
  const Dtype promoted = p.x_type == p.w_type ? p.x_type : Dtype::float32;
  return p.out_type == promoted;
}

void lower_grouped(const ConvProblem& p, const Layout& layout, Builder& b) {
  GroupedConv a{};
  a.input = b.input_arrays();
  a.w = layout.w;
  for (int axis : {kDepth, kHeight, kWidth}) {
    a.out_size[axis] = static_cast<int32_t>(p.output(axis));
    a.stride[axis] = static_cast<int32_t>(p.stride[axis]);
    a.dilation[axis] = static_cast<int32_t>(p.dilation[axis]);
    a.pad[axis] = static_cast<int32_t>(p.pad_lo[axis]);
  }
  a.out_channels = static_cast<int32_t>(p.out_channels);
  a.flip = p.flip;
  Step step;
  step.kernel = grouped_kernel(p);
  step.source = "grouped.metal";
  step.threads = true;
  step.grid = {p.out_channels, p.output(kHeight) * p.output(kWidth), p.batch * p.output(kDepth)};
  step.threadgroup = {std::min<int64_t>(32, p.out_channels), 4, 1};
  b.bind_input(step);
  step.bindings.push_back({2, b.w});
  b.bind_epilogue(step, 3);
  step.arguments = {argument(6, a)};
  b.set_weight_size(step, p.kernel);
  step.nbytes = p.operand_bytes();
  step.flops = p.direct_flops();
  b.add(std::move(step));
}

}  // namespace mlx_conv3d::metal
