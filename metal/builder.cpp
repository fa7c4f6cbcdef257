#include "metal/builder.h"

#include <algorithm>

namespace mlx_conv3d::metal {
namespace {

/// Elements from the first to one past the last of an array with these sizes and strides.
int64_t reach(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  int64_t last = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return 0;
    last += (sizes[i] - 1) * strides[i];
  }
  return last + 1;
}

std::vector<int64_t> strides_of(const ArrayStrides& s) { return {s.n, s.d, s.h, s.w, s.c}; }

}  // namespace

Builder::Builder(const ConvProblem& p, const Layout& layout) : p_(p), layout_(layout) {
  const std::vector<int64_t> x_shape{p.batch, p.input[0], p.input[1], p.input[2], p.in_channels};
  x = declare("x", Role::input, p.x_type, x_shape, reach(x_shape, strides_of(layout.x)));
  const std::vector<int64_t> w_shape{p.out_channels, p.kernel[0], p.kernel[1], p.kernel[2], p.group_in()};
  const WeightStrides& s = layout.w;
  w = declare("w", Role::input, p.w_type, w_shape, reach(w_shape, {s.o, s.d, s.h, s.w, s.c}));
  if (p.lead > 0) {
    const std::vector<int64_t> shape{p.batch, p.lead, p.input[1], p.input[2], p.in_channels};
    lead = declare("lead", Role::input, p.x_type, shape, reach(shape, strides_of(layout.lead)));
  }
  const std::vector<int64_t> y_shape{p.batch, p.output(0), p.output(1), p.output(2), p.out_channels};
  const int64_t y_elements = p.out_positions() * p.out_channels;
  if (p.bias) bias = declare("bias", Role::input, Dtype::float32, {p.out_channels}, p.out_channels);
  if (p.residual) residual = declare("residual", Role::input, p.out_type, y_shape, y_elements);
  y = declare("y", Role::output, p.out_type, y_shape, y_elements);
}

int Builder::declare(const std::string& name, Role role, Dtype dtype, std::vector<int64_t> shape,
                     int64_t elements) {
  program.buffers.push_back({name, role, elements * item_size(dtype), dtype, std::move(shape)});
  return static_cast<int>(program.buffers.size()) - 1;
}

int Builder::scratch(const std::string& name, int64_t nbytes) {
  return declare(name, Role::scratch, Dtype::float32, {}, nbytes / 4);
}

void Builder::add(Step step) {
  for (const Binding& b : step.bindings) {
    const bool scratch = program.buffers[b.buffer].role == Role::scratch;
    for (const Binding& other : running_) {
      if (other.buffer != b.buffer) continue;
      step.barrier |= b.written != other.written || (b.written && scratch);
    }
  }
  if (step.barrier) running_.clear();
  running_.insert(running_.end(), step.bindings.begin(), step.bindings.end());
  program.steps.push_back(std::move(step));
}

void Builder::bind_input(Step& step, std::array<bool, 3> unpadded) const {
  step.bindings.push_back({0, readable(x)});
  if (p_.lead > 0) step.bindings.push_back({1, readable(lead)});
  step.constants.push_back({MLX_CONV3D_HAS_LEAD, p_.lead > 0});
  for (int axis : {kDepth, kHeight, kWidth}) {
    const int mode = unpadded[axis] ? MLX_CONV3D_UNPADDED : static_cast<int>(p_.pad_mode[axis]);
    step.constants.push_back({MLX_CONV3D_DEPTH_MODE + axis,
                              mode + MLX_CONV3D_PAD_MODES * static_cast<int>(p_.upsample[axis] - 1)});
  }
}

void Builder::bind_epilogue(Step& step, int first) const {
  step.bindings.push_back({first, y, true});
  if (p_.bias) step.bindings.push_back({first + 1, bias});
  if (p_.residual) step.bindings.push_back({first + 2, residual});
  step.constants.push_back({MLX_CONV3D_HAS_BIAS, p_.bias});
  step.constants.push_back({MLX_CONV3D_HAS_RESIDUAL, p_.residual});
  step.constants.push_back({MLX_CONV3D_ACTIVATION, static_cast<int>(p_.activation)});
}

void Builder::bind_sums(Step& step, int first, int buffer) const {
  step.bindings.push_back({first, buffer, true});
  step.constants.push_back({MLX_CONV3D_HAS_BIAS, false});
  step.constants.push_back({MLX_CONV3D_HAS_RESIDUAL, false});
  step.constants.push_back({MLX_CONV3D_ACTIVATION, static_cast<int>(Activation::none)});
}

void Builder::set_weight_size(Step& step, const Size3& taps) const {
  // Never 0: a phase without taps has no products, but the kernel divides by the sizes.
  const auto size = [](int64_t n) { return static_cast<int>(std::max<int64_t>(1, n)); };
  step.constants.push_back({MLX_CONV3D_CHANNELS, size(p_.group_in())});
  step.constants.push_back({MLX_CONV3D_OUTPUTS, size(p_.group_out())});
  for (int axis : {kDepth, kHeight, kWidth}) {
    step.constants.push_back({MLX_CONV3D_KERNEL_D + axis, size(taps[axis])});
  }
}

InputArrays Builder::input_arrays() const {
  InputArrays a{layout_.x, layout_.lead, {}, static_cast<int32_t>(p_.lead)};
  for (int axis : {kDepth, kHeight, kWidth}) a.size[axis] = static_cast<int32_t>(p_.extent(axis));
  return a;
}

}  // namespace mlx_conv3d::metal
