// RMS norm with the activation that follows it, in one pass over x, and its derivatives. What is not computed
// here (transformations beyond the first derivative, GPU streams) is composed of MLX's own operations.

#include "core/norm.h"

#include <stdexcept>

#include "core/ops.h"
#include "core/staging.h"
#include "cpu/norm.h"
#include "mlx/allocator.h"

namespace mlx_conv3d {
namespace {

/// The same for any shapes that broadcast.
mx::array composed_norm(const mx::array& x, const mx::array& weight, const NormSpec& spec,
                        mx::StreamOrDevice s) {
  const mx::array wide = mx::astype(x, mx::float32, s);
  const mx::array mean = mx::mean(mx::square(wide, s), -1, true, s);
  const mx::array normal = mx::multiply(wide, mx::rsqrt(mx::add(mean, mx::array(spec.eps), s), s), s);
  mx::array z = mx::multiply(normal, mx::astype(weight, mx::float32, s), s);
  if (spec.activation == Activation::relu) z = mx::maximum(z, mx::array(0.0f), s);
  if (spec.activation == Activation::silu) z = mx::multiply(z, mx::sigmoid(z, s), s);
  return mx::astype(z, mx::promote_types(x.dtype(), weight.dtype()), s);
}

std::function<Arrays(const Arrays&)> composed(const NormSpec& spec, mx::StreamOrDevice s) {
  return [spec, s](const Arrays& in) -> Arrays { return {composed_norm(in[0], in[1], spec, s)}; };
}

/// {x, weight, dy} to {dx, dweight}.
std::function<Arrays(const Arrays&)> composed_gradient(const NormSpec& spec, mx::StreamOrDevice s) {
  return [spec, s](const Arrays& in) { return mx::vjp(composed(spec, s), {in[0], in[1]}, {in[2]}).second; };
}

/// `f`'s derivative along the tangents of some of its arguments.
Arrays derivative(const std::function<Arrays(const Arrays&)>& f, const Arrays& primals,
                  const Arrays& tangents, const std::vector<int>& argnums, mx::StreamOrDevice s) {
  Arrays all;
  for (const mx::array& primal : primals) all.push_back(mx::zeros_like(primal, s));
  for (size_t i = 0; i < argnums.size(); ++i) all[argnums[i]] = tangents[i];
  return mx::jvp(f, primals, all).second;
}

Arrays picked(const Arrays& all, const std::vector<int>& argnums) {
  Arrays some;
  for (int arg : argnums) some.push_back(all[arg]);
  return some;
}

/// Element `at` of an axis; zeros where there is none.
mx::array element_of(const mx::array& a, int axis, int at, mx::StreamOrDevice s) {
  if (a.shape(axis) > 0) return mx::take(a, mx::array(at), axis, s);
  mx::Shape shape = a.shape();
  shape.erase(shape.begin() + axis);
  return mx::zeros(shape, a.dtype(), s);
}

/// One call for every index of what is mapped; the results are stacked along axis 0.
MappedArrays mapped(const std::function<Arrays(const Arrays&)>& f, const Arrays& inputs,
                    const std::vector<int>& axes, mx::StreamOrDevice s) {
  const int size = mapped_size(inputs, axes);
  std::vector<Arrays> results;  // [output][index]
  for (int at = 0; at < std::max(size, 1); ++at) {
    Arrays each;
    for (size_t i = 0; i < inputs.size(); ++i) {
      each.push_back(axes[i] < 0 ? inputs[i] : element_of(inputs[i], axes[i], at, s));
    }
    const Arrays found = f(each);
    results.resize(found.size());
    for (size_t i = 0; i < found.size(); ++i) results[i].push_back(found[i]);
  }
  Arrays out;
  for (Arrays& each : results) {
    const mx::array all = mx::stack(std::move(each), 0, s);
    out.push_back(size > 0 ? all : slice_axis(all, 0, 0, 0, s));
  }
  return {out, std::vector<int>(out.size(), 0)};
}

mx::array make_norm(const mx::array& x, const mx::array& weight, const NormSpec& spec, mx::Stream s) {
  return mx::array(x.shape(), mx::promote_types(x.dtype(), weight.dtype()),
                   std::make_shared<RMSNorm>(s, spec), {x, weight});
}

Arrays make_gradient(const Arrays& inputs, const NormSpec& spec, mx::Stream s) {
  return mx::array::make_arrays({inputs[0].shape(), inputs[1].shape()},
                                {inputs[0].dtype(), inputs[1].dtype()},
                                std::make_shared<RMSNormGradient>(s, spec), inputs);
}

cpu::NormProblem problem_of(const mx::array& x, mx::Dtype y_type, const NormSpec& spec) {
  cpu::NormProblem p;
  for (int i = 0; i < 5; ++i) p.shape[i] = x.shape(i);
  p.eps = spec.eps;
  p.activation = spec.activation;
  p.x_type = to_dtype(x.dtype());
  p.y_type = to_dtype(y_type);
  return p;
}

/// The weight as floats.
const float* floats_of(const mx::array& weight, std::vector<float>& to) {
  const Dtype type = to_dtype(weight.dtype());
  to.resize(weight.size());
  for (size_t i = 0; i < to.size(); ++i) {
    const char* from = weight.data<char>() + static_cast<int64_t>(i) * weight.strides(0) * item_size(type);
    cpu::kernels().to_float(type, from, &to[i], 1);
  }
  return to.data();
}

}  // namespace

mx::array rms_norm(const mx::array& x, const mx::array& weight, const NormSpec& spec, mx::StreamOrDevice s) {
  if (x.ndim() < 1 || weight.shape() != mx::Shape{x.shape(-1)}) {
    std::ostringstream text;
    text << "[rms_norm] weight must have the size of x's last axis, got " << weight.shape() << " for x "
         << x.shape() << ".";
    throw std::invalid_argument(text.str());
  }
  for (const auto& [name, a] : {std::pair{"x", &x}, std::pair{"weight", &weight}}) {
    if (!mx::issubdtype(a->dtype(), mx::floating)) {
      throw std::invalid_argument(std::string("[rms_norm] ") + name + " must have a floating point type.");
    }
  }
  const bool ours = is_supported(x.dtype()) && is_supported(weight.dtype()) && !disabled() &&
                    mx::to_stream(s).device == mx::Device::cpu;
  if (!ours || x.size() == 0) return composed_norm(x, weight, spec, s);
  mx::array lifted = x;
  if (x.ndim() > 5) lifted = mx::flatten(x, 0, static_cast<int>(x.ndim()) - 5, s);
  while (lifted.ndim() < 5) lifted = mx::expand_dims(lifted, 0, s);
  const mx::array y = make_norm(lifted, weight, spec, mx::to_stream(s));
  return x.ndim() == 5 ? y : mx::reshape(y, x.shape(), s);
}

void RMSNorm::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs[0]);
  auto& encoder = mx::cpu::get_command_encoder(stream());
  Staging staging(stream());
  const cpu::TensorView x = staging.pixels(inputs[0]);
  const cpu::NormProblem p = problem_of(inputs[0], outputs[0].dtype(), parameters_);
  for (const mx::array& input : inputs) encoder.set_input_array(input);
  encoder.set_output_array(outputs[0]);
  encoder.dispatch(
      [p, x, staging, weight = mx::array::unsafe_weak_copy(inputs[1]), y = outputs[0].data<char>()] {
        staging.run();
        std::vector<float> floats;
        cpu::rms_norm(p, x, floats_of(weight, floats), y);
      });
}

void RMSNormGradient::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  for (mx::array& out : outputs) allocate(out);
  auto& encoder = mx::cpu::get_command_encoder(stream());
  Staging staging(stream());
  const cpu::TensorView x = staging.pixels(inputs[0]), dy = staging.pixels(inputs[2]);
  const cpu::NormProblem p = problem_of(inputs[0], inputs[2].dtype(), parameters_);
  for (const mx::array& input : inputs) encoder.set_input_array(input);
  for (mx::array& out : outputs) encoder.set_output_array(out);
  encoder.dispatch([p, x, dy, staging, weight = mx::array::unsafe_weak_copy(inputs[1]),
                    dx = outputs[0].data<char>(), dw = outputs[1].data<char>()] {
    staging.run();
    std::vector<float> floats, sums(weight.size());
    cpu::rms_norm_gradient(p, x, floats_of(weight, floats), dy, dx, sums.data());
    const cpu::Epilogue as{to_dtype(weight.dtype()), Activation::none, nullptr, nullptr};
    cpu::kernels().store(as, sums.data(), 0, 0, dw, static_cast<int64_t>(sums.size()));
  });
}

Arrays RMSNorm::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                    const Arrays&) {
  return picked(make_gradient({primals[0], primals[1], cotangents[0]}, parameters_, stream()), argnums);
}

Arrays RMSNorm::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
  return derivative(composed(parameters_, stream()), primals, tangents, argnums, stream());
}

MappedArrays RMSNorm::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  const auto f = [this](const Arrays& in) -> Arrays {
    return {make_norm(in[0], in[1], parameters_, stream())};
  };
  return mapped(f, inputs, axes, stream());
}

Arrays RMSNormGradient::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                            const Arrays&) {
  return picked(mx::vjp(composed_gradient(parameters_, stream()), primals, cotangents).second, argnums);
}

Arrays RMSNormGradient::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
  return derivative(composed_gradient(parameters_, stream()), primals, tangents, argnums, stream());
}

MappedArrays RMSNormGradient::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  const auto f = [this](const Arrays& in) { return make_gradient(in, parameters_, stream()); };
  return mapped(f, inputs, axes, stream());
}

}  // namespace mlx_conv3d
