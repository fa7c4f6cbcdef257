#include "core/primitive.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "core/gpu_program.h"
#include "core/ops.h"
#include "core/plan_cache.h"
#include "core/route.h"
#include "core/staging.h"
#include "cpu/grouped_winograd_weights.h"
#include "cpu/last_frames.h"
#include "cpu/run.h"
#include "cpu/winograd.h"
#include "mlx/allocator.h"

namespace mlx_conv3d {
namespace {

int narrow(int64_t size) {
  if (size > std::numeric_limits<int>::max()) {
    throw std::invalid_argument("[conv] an axis of the result has " + std::to_string(size) +
                                " elements, more than an MLX axis can have.");
  }
  return static_cast<int>(size);
}

cpu::WeightView view_weights(const mx::array& w) {
  cpu::WeightView view{w.data<char>(), to_dtype(w.dtype()), {}};
  for (int i = 0; i < 5; ++i) view.stride[i] = w.strides(i);
  return view;
}

/// See ConvSpec::swapped.
cpu::WeightView view_swapped_weights(const mx::array& w, int64_t groups) {
  cpu::WeightView view = view_weights(w);
  std::swap(view.stride[0], view.stride[4]);
  view.group = w.shape(4);
  view.group_stride = w.shape(0) / groups * view.stride[4];
  return view;
}

ConvProblem bind_inputs(const ConvSpec& spec, const Arrays& inputs) {
  const int64_t lead = spec.lead ? inputs[2].shape(1) : 0;
  return spec.bind(inputs[0].shape(), to_dtype(inputs[0].dtype()), inputs[1].shape(),
                   to_dtype(inputs[1].dtype()), lead);
}

}  // namespace

mx::Shape output_shape(const ConvProblem& p) {
  return {narrow(p.batch), narrow(p.output(0)), narrow(p.output(1)), narrow(p.output(2)),
          narrow(p.out_channels)};
}

ConvSpec ConvSpec::bare() const {
  ConvSpec spec = *this;
  spec.activation = Activation::none;
  spec.bias = spec.residual = spec.lead = false;
  spec.packed = {};
  spec.per_frame = spec.odd_frame = false;
  return spec;
}

ConvProblem ConvSpec::bind(const mx::Shape& x, Dtype x_type, const mx::Shape& w, Dtype w_type,
                           int64_t lead_frames) const {
  ConvProblem p;
  p.batch = x[0];
  p.input = {x[1], x[2], x[3]};
  p.in_channels = x[4];
  p.out_channels = swapped ? groups * w[4] : w[0];
  p.kernel = kernel_of(w);
  p.lead = lead_frames;
  p.groups = groups;
  p.stride = stride;
  p.pad_lo = pad_lo;
  p.pad_hi = pad_hi;
  p.dilation = dilation;
  p.input_dilation = input_dilation;
  p.upsample = upsample;
  p.pad_mode = pad_mode;
  p.flip = flip;
  p.x_type = x_type;
  p.w_type = w_type;
  p.out_type = out_type;
  p.bias = bias;
  p.residual = residual;
  p.activation = activation;
  p.prepared = packed.m > 0;
  p.per_frame = per_frame;
  p.odd_frame = odd_frame;
  return p;
}

ConvProblem Conv::problem(const Arrays& inputs) const { return bind_inputs(spec_, inputs); }

std::vector<mx::Shape> Conv::output_shapes(const Arrays& inputs) {
  const ConvProblem p = problem(inputs);
  p.validate();
  return {output_shape(p)};
}

void Conv::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  for (mx::array& output : outputs) allocate(output);
  mx::array& out = outputs[0];
  ConvProblem p = problem(inputs);
  if (p.empty()) return;
  std::shared_ptr<const Plan> plan = cpu_plan(p, spec_.forced);
  if (p.prepared && !uses_packed_weights(*plan, spec_.packed)) {
    // The workspace limit has changed since this was built.
    p.prepared = false;
    plan = cpu_plan(p, spec_.forced);
  }
  if (plan->algorithm() == Algorithm::stock) {
    throw std::runtime_error("[conv] no algorithm fits the workspace limit of " +
                             std::to_string(workspace_limit()) + " bytes any more: " + p.describe() + ".");
  }

  auto& encoder = mx::cpu::get_command_encoder(stream());
  Staging staging(stream());
  cpu::Operands operands;
  const bool patches = plan->chosen.gemm.whole_patches;
  operands.x = staging.pixels(inputs[0], patches);
  operands.w = spec_.swapped ? view_swapped_weights(inputs[1], spec_.groups) : view_weights(inputs[1]);
  if (patches) {
    const mx::Shape shape{narrow(p.out_channels), narrow(p.kernel[0]), narrow(p.kernel[1]),
                          narrow(p.kernel[2]), narrow(p.in_channels)};
    operands.w = staging.contiguous(operands.w, shape, inputs[1].dtype());
  }
  const ConvInputs at(spec_);
  const auto floats = [&](int input) { return static_cast<const float*>(staging.contiguous(inputs[input])); };
  if (spec_.lead) operands.lead = staging.pixels(inputs[at.lead]);
  operands.epilogue = {spec_.out_type, spec_.activation, nullptr, nullptr};
  if (spec_.bias) operands.epilogue.bias = floats(at.bias);
  if (spec_.residual) operands.epilogue.residual = staging.contiguous(inputs[at.residual]);
  if (p.prepared) operands.packed_w = floats(at.packed);
  operands.y = out.data<char>();
  std::optional<cpu::LastFrames> last;
  if (outputs.size() > 1) last.emplace(p, operands, outputs[1].shape(1), outputs[1].data<char>());
  for (const mx::array& input : inputs) encoder.set_input_array(input);
  for (mx::array& output : outputs) encoder.set_output_array(output);
  encoder.dispatch([p, plan, operands, staging, last] {
    staging.run();
    cpu::run(p, plan->chosen, operands);
    if (last) last->copy();
  });
}

void Conv::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  outputs[0].set_data(mx::allocator::malloc(outputs[0].nbytes()));
  run_on_gpu(problem(inputs), on_gpu_.value(), inputs, outputs[0], stream());
}

bool Conv::is_equivalent(const mx::Primitive& other) const {
  const auto& o = static_cast<const Conv&>(other);
  return spec_ == o.spec_ && on_gpu_ == o.on_gpu_;
}

mx::Shape ConvWeightGradient::weight_shape(const Arrays& inputs) const {
  return {inputs[1].shape(4), narrow(parameters_.kernel[0]), narrow(parameters_.kernel[1]),
          narrow(parameters_.kernel[2]), narrow(inputs[0].shape(4) / parameters_.conv.groups)};
}

std::vector<mx::Shape> ConvWeightGradient::output_shapes(const Arrays& inputs) {
  return {weight_shape(inputs)};
}

void ConvWeightGradient::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  mx::array& out = outputs[0];
  allocate(out);
  if (out.size() == 0) return;
  ConvProblem p =
      parameters_.conv.bind(inputs[0].shape(), to_dtype(inputs[0].dtype()), weight_shape(inputs),
                            parameters_.conv.out_type, parameters_.conv.lead ? inputs[2].shape(1) : 0);
  std::optional<bool> winograd;
  if (parameters_.conv.forced) winograd = *parameters_.conv.forced == Algorithm::winograd;
  const WeightGradientPlan plan = make_weight_gradient_plan(p, cpu_device(), workspace_limit(), winograd);

  auto& encoder = mx::cpu::get_command_encoder(stream());
  Staging staging(stream());
  cpu::Operands operands;
  operands.x = staging.pixels(inputs[0]);
  if (parameters_.conv.lead) operands.lead = staging.pixels(inputs[2]);
  const void* dy = staging.contiguous(inputs[1]);
  const Dtype dy_type = to_dtype(inputs[1].dtype());
  void* dw = out.data<char>();
  for (const mx::array& input : inputs) encoder.set_input_array(input);
  encoder.set_output_array(out);
  encoder.dispatch([p, plan, operands, staging, dy_type, dy, dw] {
    staging.run();
    cpu::run_weight_gradient(p, plan, operands, dy_type, dy, dw);
  });
}

namespace {

/// The kernel of such weights with its axes in winograd_axis_order.
Size3 ordered_kernel(const mx::Shape& w) {
  Size3 kernel = kernel_of(w);
  reorder_axes(kernel.data(), winograd_axis_order(kernel));
  return kernel;
}

}  // namespace

std::vector<mx::Shape> PackWeights::output_shapes(const Arrays& inputs) {
  const mx::Shape& w = inputs[0].shape();
  const auto& [form, flip, groups] = parameters_;
  const int64_t size = groups > 1 ? cpu::grouped_winograd_weights_size(form, w[0], w[4], groups)
                                  : cpu::winograd_weights_size(form, w[0], ordered_kernel(w)[kDepth], w[4]);
  return {mx::Shape{narrow(size)}};
}

void PackWeights::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  mx::array& out = outputs[0];
  allocate(out);
  auto& encoder = mx::cpu::get_command_encoder(stream());
  encoder.set_input_array(inputs[0]);
  encoder.set_output_array(out);
  const cpu::WeightView w = view_weights(inputs[0]);
  const mx::Shape shape = inputs[0].shape();
  encoder.dispatch([w, shape, spec = parameters_, to = out.data<float>()] {
    if (spec.groups > 1) {
      cpu::grouped_winograd_weights(spec.form, w, shape[0], shape[4], spec.groups, spec.flip, to);
    } else {
      const Size3 kernel = ordered_kernel(shape);
      cpu::winograd_weights(spec.form, cpu::with_axes(w, winograd_axis_order(kernel_of(shape))), shape[0],
                            kernel[kDepth], kernel[kWidth], shape[4], spec.flip, to);
    }
  });
}

mx::array make_conv(Arrays inputs, ConvSpec spec, mx::StreamOrDevice s) {
  if (mx::to_stream(s).device == mx::Device::cpu) {
    return conv_primitive(std::move(inputs), std::move(spec), std::nullopt, s);
  }
  const Route chosen = route(bind_inputs(spec, inputs), spec.forced, s);
  if (chosen.stock()) return stock_conv(inputs, spec, s);
  return conv_primitive(std::move(inputs), std::move(spec), chosen.plan->algorithm(), s);
}

mx::array conv_primitive(Arrays inputs, ConvSpec spec, std::optional<Algorithm> on_gpu,
                         mx::StreamOrDevice s) {
  if (on_gpu) {
    // The kernels read x, w and lead with any strides; bias and residual lie as the output does.
    const auto first = inputs.begin() + (spec.lead ? 3 : 2);
    std::for_each(first, inputs.end(), [&](mx::array& a) { a = mx::contiguous(a, false, s); });
  }
  auto primitive = std::make_shared<Conv>(mx::to_stream(s), std::move(spec), on_gpu);
  const mx::Shape shape = primitive->output_shapes(inputs)[0];
  const mx::Dtype type = to_mlx(primitive->spec().out_type);
  return mx::array(shape, type, std::move(primitive), std::move(inputs));
}

mx::array weight_gradient(const ConvSpec& spec, const mx::array& x, const std::optional<mx::array>& lead,
                          const mx::array& dy, const mx::Shape& w_shape, Dtype type, mx::StreamOrDevice s) {
  ConvSpec of_gradient = spec.bare();
  of_gradient.lead = lead.has_value();
  of_gradient.out_type = type;
  if (mx::to_stream(s).device != mx::Device::cpu) {
    return stock_weight_gradient(of_gradient, x, lead, dy, w_shape, type, s);
  }
  Arrays inputs{x, dy};
  if (lead) inputs.push_back(*lead);
  auto primitive = std::make_shared<ConvWeightGradient>(
      mx::to_stream(s), WeightGradientSpec{of_gradient, {w_shape[1], w_shape[2], w_shape[3]}});
  return mx::array(w_shape, to_mlx(type), std::move(primitive), std::move(inputs));
}

}  // namespace mlx_conv3d
