// Derivatives of the two primitives, which are each other's: y is bilinear in x and w, and so is dL/dw in x
// and dy.

#include <algorithm>
#include <stdexcept>

#include "core/grouped_kernels.h"
#include "core/integers.h"
#include "core/ops.h"
#include "core/primitive.h"

namespace mlx_conv3d {
namespace {

mx::array reverse_axis(const mx::array& a, int axis, mx::StreamOrDevice s) {
  mx::Shape start(a.ndim(), 0), stop = a.shape(), step(a.ndim(), 1);
  start[axis] = a.shape(axis) - 1;
  stop[axis] = -a.shape(axis) - 1;
  step[axis] = -1;
  return mx::slice(a, start, stop, step, s);
}

mx::array pad_axis(const mx::array& a, int axis, int64_t lo, int64_t hi, mx::StreamOrDevice s) {
  std::vector<std::pair<int, int>> widths(a.ndim(), {0, 0});
  widths[axis] = {static_cast<int>(lo), static_cast<int>(hi)};
  return mx::pad(a, widths, mx::array(0.0f, a.dtype()), "constant", s);
}

/// An axis' taps spread by the dilation, and each repeated over `scale` positions: what upsampled pixels add
/// up to.
mx::array box_taps(const mx::array& w, int axis, int64_t dilation, int64_t scale, mx::StreamOrDevice s) {
  const int64_t reach = dilated(w.shape(axis), dilation);
  mx::array spread = w;
  if (dilation > 1) {
    spread = pad_axis(mx::expand_dims(w, axis + 1, s), axis + 1, 0, dilation - 1, s);
    spread = slice_axis(mx::flatten(spread, axis, axis + 1, s), axis, 0, reach, s);
  }
  mx::array total = pad_axis(spread, axis, 0, scale - 1, s);
  for (int64_t r = 1; r < scale; ++r) {
    total = mx::add(total, pad_axis(spread, axis, r, scale - 1 - r, s), s);
  }
  return total;
}

/// Sums of the pixels that upsampling copied from each other.
mx::array sum_blocks(mx::array g, const Size3& scale, mx::StreamOrDevice s) {
  for (int axis = 0; axis < 3; ++axis) {
    const int k = static_cast<int>(scale[axis]);
    if (k > 1) g = mx::sum(mx::unflatten(g, axis + 1, {g.shape(axis + 1) / k, k}, s), axis + 2, false, s);
  }
  return g;
}

/// Whether a mirrored border is made of parts of upsampled pixels, so that it is no border of the input's
/// own.
bool mirrors_within_pixels(const ConvSpec& spec) {
  for (int axis = 0; axis < 3; ++axis) {
    const bool mirrored = spec.pad_mode[axis] == PadMode::reflect && spec.upsample[axis] > 1;
    if (mirrored && std::max(spec.pad_lo[axis], spec.pad_hi[axis]) >= spec.upsample[axis]) return true;
  }
  return false;
}

/// Adjoint of padding an axis by lo and hi: the gradients of the padding are added to what it was copied
/// from.
mx::array fold_axis(const mx::array& g, int axis, int64_t lo, int64_t hi, PadMode mode,
                    mx::StreamOrDevice s) {
  const int64_t n = g.shape(axis) - lo - hi;
  mx::array total = slice_axis(g, axis, lo, lo + n, s);
  for (const bool low : {true, false}) {
    const int64_t count = low ? lo : hi;
    if (count == 0) continue;
    const mx::array border =
        low ? slice_axis(g, axis, 0, lo, s) : slice_axis(g, axis, lo + n, lo + n + hi, s);
    if (mode == PadMode::edge) {
      const mx::array sum = mx::sum(border, axis, true, s);
      total = mx::add(total, low ? pad_axis(sum, axis, 0, n - 1, s) : pad_axis(sum, axis, n - 1, 0, s), s);
    } else {
      const mx::array mirrored = reverse_axis(border, axis, s);
      total = mx::add(
          total,
          low ? pad_axis(mirrored, axis, 1, n - 1 - count, s) : pad_axis(mirrored, axis, n - 1 - count, 1, s),
          s);
    }
  }
  return total;
}

/// (G*O', ..., I') -> (G*I', ..., O') within each group: the weights of the adjoint.
mx::array swap_channels(const mx::array& w, int64_t groups, mx::StreamOrDevice s) {
  if (groups == 1) return mx::swapaxes(w, 0, 4, s);
  const int g = static_cast<int>(groups), o = w.shape(0) / g;
  mx::array split = mx::reshape(w, {g, o, w.shape(1), w.shape(2), w.shape(3), w.shape(4)}, s);
  return mx::reshape(mx::swapaxes(split, 1, 5, s), {g * w.shape(4), w.shape(1), w.shape(2), w.shape(3), o},
                     s);
}

/// Whether the CPU's kernels read w with its channels swapped: those of a group are whole vectors.
bool reads_swapped(const mx::array& w, int64_t groups, mx::StreamOrDevice s) {
  return groups > 1 && w.shape(4) % kBroadcastOutputs == 0 && mx::to_stream(s).device == mx::Device::cpu;
}

/// A convolution that reads w with its channels swapped, as one of w that is so.
Arrays unswap(Arrays inputs, ConvSpec& spec, mx::StreamOrDevice s) {
  spec.swapped = false;
  inputs[1] = swap_channels(inputs[1], spec.groups, s);
  return inputs;
}

/// The convolution alone, by whichever algorithm.
ConvSpec without_epilogue(const ConvSpec& spec) {
  ConvSpec linear = spec.bare();
  linear.forced.reset();
  return linear;
}

/// activation'(z), in fp32.
mx::array activation_slope(Activation activation, const mx::array& z, mx::StreamOrDevice s) {
  const mx::array one(1.0f), half(0.5f);
  switch (activation) {
    case Activation::relu:
      return mx::astype(mx::greater(z, mx::array(0.0f), s), mx::float32, s);
    case Activation::silu: {
      const mx::array sig = mx::sigmoid(z, s);
      return mx::multiply(sig, mx::add(one, mx::multiply(z, mx::subtract(one, sig, s), s), s), s);
    }
    case Activation::gelu: {
      const mx::array cdf = mx::multiply(
          half, mx::add(one, mx::erf(mx::multiply(z, mx::array(0.7071067811865475f), s), s), s), s);
      const mx::array density =
          mx::multiply(mx::array(0.3989422804014327f),
                       mx::exp(mx::multiply(mx::array(-0.5f), mx::multiply(z, z, s), s), s), s);
      return mx::add(cdf, mx::multiply(z, density, s), s);
    }
    case Activation::sigmoid: {
      const mx::array sig = mx::sigmoid(z, s);
      return mx::multiply(sig, mx::subtract(one, sig, s), s);
    }
    case Activation::tanh:
      return mx::subtract(one, mx::square(mx::tanh(z, s), s), s);
    case Activation::none:
      break;
  }
  return one;
}

/// conv(x, w) + bias in fp32, what the activation is applied to.
mx::array before_activation(const ConvSpec& spec, const Arrays& inputs, mx::StreamOrDevice s) {
  const ConvInputs at(spec);
  ConvSpec plain = without_epilogue(spec);
  plain.lead = spec.lead;
  plain.bias = spec.bias;
  plain.out_type = Dtype::float32;
  Arrays kept{inputs[0], inputs[1]};
  if (at.lead >= 0) kept.push_back(inputs[at.lead]);
  if (at.bias >= 0) kept.push_back(inputs[at.bias]);
  return make_conv(kept, plain, s);
}

}  // namespace

mx::array input_gradient(const ConvSpec& spec, const mx::Shape& input_shape, const mx::array& w,
                         const mx::array& dy, Dtype type, mx::StreamOrDevice s) {
  if (mirrors_within_pixels(spec)) {
    ConvSpec of_upsampled = spec;
    of_upsampled.upsample = {1, 1, 1};
    mx::Shape shape = input_shape;
    for (int axis = 0; axis < 3; ++axis) shape[axis + 1] *= static_cast<int>(spec.upsample[axis]);
    const mx::array g = input_gradient(of_upsampled, shape, w, dy, Dtype::float32, s);
    return mx::astype(sum_blocks(g, spec.upsample, s), to_mlx(type), s);
  }
  ConvSpec adjoint = without_epilogue(spec);
  adjoint.flip = !spec.flip;
  adjoint.upsample = {1, 1, 1};
  adjoint.stride = spec.input_dilation;
  adjoint.input_dilation = spec.stride;
  adjoint.pad_mode = {PadMode::zeros, PadMode::zeros, PadMode::zeros};
  constexpr Size3 kNone{0, 0, 0};
  Size3 folded_lo = kNone, folded_hi = kNone;
  mx::array taps = spec.upsample == Size3{1, 1, 1} ? w : mx::astype(w, mx::float32, s);
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t scale = spec.upsample[axis];
    if (spec.pad_mode[axis] != PadMode::zeros) {
      folded_lo[axis] = divide_up(std::max<int64_t>(0, spec.pad_lo[axis]), scale);
      folded_hi[axis] = divide_up(std::max<int64_t>(0, spec.pad_hi[axis]), scale);
    }
    const int64_t extent = input_shape[axis + 1] + folded_lo[axis] + folded_hi[axis];
    const int64_t pad_lo = spec.pad_lo[axis] - folded_lo[axis] * scale;
    adjoint.pad_lo[axis] = dilated(w.shape(axis + 1), spec.dilation[axis]) - 1 - pad_lo;
    if (scale > 1) {
      // A pixel's gradient is the sum over its copies: the adjoint with `scale` taps for each, at that
      // stride.
      taps = box_taps(taps, axis + 1, spec.dilation[axis], scale, s);
      adjoint.stride[axis] = scale;
      adjoint.dilation[axis] = 1;
    }
    adjoint.pad_hi[axis] =
        (extent - 1) * adjoint.stride[axis] + scale - dilated(dy.shape(axis + 1), spec.stride[axis]) + pad_lo;
  }
  // Folding adds, so it must not start from rounded values.
  adjoint.out_type = folded_lo == kNone && folded_hi == kNone ? type : Dtype::float32;
  if (dy.size() == 0) return mx::zeros(input_shape, to_mlx(type), s);
  for (int i = 0; i < 5; ++i) {
    if (input_shape[i] == 0) return mx::zeros(input_shape, to_mlx(type), s);
  }
  adjoint.swapped = reads_swapped(taps, spec.groups, s);
  if (!adjoint.swapped) taps = swap_channels(taps, spec.groups, s);
  mx::array grad = make_conv({dy, taps}, adjoint, s);
  for (int axis = 0; axis < 3; ++axis) {
    if (folded_lo[axis] + folded_hi[axis] > 0) {
      const PadMode mode = spec.upsample[axis] > 1 ? PadMode::edge : spec.pad_mode[axis];
      grad = fold_axis(grad, axis + 1, folded_lo[axis], folded_hi[axis], mode, s);
    }
  }
  return mx::astype(grad, to_mlx(type), s);
}

Arrays Conv::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                 const Arrays& outputs) {
  const mx::StreamOrDevice s = stream();
  if (spec_.swapped) {
    ConvSpec spec = spec_;
    const Arrays inputs = unswap(primals, spec, s);
    Arrays grads = Conv(stream(), spec, on_gpu_).vjp(inputs, cotangents, argnums, outputs);
    for (size_t i = 0; i < argnums.size(); ++i) {
      if (argnums[i] == 1) grads[i] = swap_channels(grads[i], spec.groups, s);
    }
    return grads;
  }
  const ConvInputs at(spec_);
  const mx::array& x = primals[0];
  const mx::array& w = primals[1];
  mx::array dz = cotangents[0];
  if (spec_.activation != Activation::none) {
    const mx::array slope = activation_slope(spec_.activation, before_activation(spec_, primals, s), s);
    dz = mx::astype(mx::multiply(mx::astype(dz, mx::float32, s), slope, s), cotangents[0].dtype(), s);
  }
  mx::Shape input_shape = x.shape();
  std::optional<mx::array> lead;
  if (at.lead >= 0) {
    lead = primals[at.lead];
    input_shape[1] += lead->shape(1);
  }
  std::optional<mx::array> both;
  const auto of_input = [&]() -> const mx::array& {
    if (!both) both = input_gradient(spec_, input_shape, w, dz, to_dtype(x.dtype()), s);
    return *both;
  };
  Arrays grads;
  for (const int arg : argnums) {
    if (arg == 0) {
      grads.push_back(lead ? slice_axis(of_input(), 1, lead->shape(1), input_shape[1], s) : of_input());
    } else if (arg == 1) {
      grads.push_back(weight_gradient(spec_, x, lead, dz, w.shape(), to_dtype(w.dtype()), s));
    } else if (arg == at.lead) {
      grads.push_back(slice_axis(of_input(), 1, 0, lead->shape(1), s));
    } else if (arg == at.bias) {
      grads.push_back(mx::sum(mx::astype(dz, mx::float32, s), {0, 1, 2, 3}, false, s));
    } else if (arg == at.residual) {
      grads.push_back(cotangents[0]);
    } else {
      grads.push_back(mx::zeros_like(primals[arg], s));
    }
  }
  return grads;
}

Arrays Conv::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
  const mx::StreamOrDevice s = stream();
  if (spec_.swapped) {
    ConvSpec spec = spec_;
    const Arrays inputs = unswap(primals, spec, s);
    Arrays swapped = tangents;
    for (size_t i = 0; i < argnums.size(); ++i) {
      if (argnums[i] == 1) swapped[i] = swap_channels(swapped[i], spec.groups, s);
    }
    return Conv(stream(), spec, on_gpu_).jvp(inputs, swapped, argnums);
  }
  const ConvInputs at(spec_);
  std::vector<std::optional<mx::array>> tangent(primals.size());
  for (size_t i = 0; i < argnums.size(); ++i) tangent[argnums[i]] = tangents[i];
  const auto or_zeros = [&](int i) { return tangent[i] ? *tangent[i] : mx::zeros_like(primals[i], s); };
  ConvSpec linear = without_epilogue(spec_);
  linear.lead = spec_.lead;
  linear.out_type = Dtype::float32;

  std::optional<mx::array> total;
  const auto add = [&](const mx::array& term) { total = total ? mx::add(*total, term, s) : term; };
  if (tangent[0] || (at.lead >= 0 && tangent[at.lead])) {
    Arrays inputs{or_zeros(0), primals[1]};
    if (at.lead >= 0) inputs.push_back(or_zeros(at.lead));
    add(make_conv(inputs, linear, s));
  }
  if (tangent[1]) {
    Arrays inputs{primals[0], *tangent[1]};
    if (at.lead >= 0) inputs.push_back(primals[at.lead]);
    add(make_conv(inputs, linear, s));
  }
  const mx::Shape shape = output_shapes(primals)[0];
  if (at.bias >= 0 && tangent[at.bias]) add(mx::broadcast_to(*tangent[at.bias], shape, s));
  if (total && spec_.activation != Activation::none) {
    total =
        mx::multiply(*total, activation_slope(spec_.activation, before_activation(spec_, primals, s), s), s);
  }
  if (at.residual >= 0 && tangent[at.residual]) add(mx::astype(*tangent[at.residual], mx::float32, s));
  if (!total) total = mx::zeros(shape, mx::float32, s);
  return {mx::astype(*total, to_mlx(spec_.out_type), s)};
}

Arrays ConvWeightGradient::vjp(const Arrays& primals, const Arrays& cotangents,
                               const std::vector<int>& argnums, const Arrays&) {
  const mx::StreamOrDevice s = stream();
  const mx::array& x = primals[0];
  const mx::array& dy = primals[1];
  const mx::array& dw = cotangents[0];
  std::optional<mx::array> lead;
  mx::Shape input_shape = x.shape();
  if (parameters_.conv.lead) {
    lead = primals[2];
    input_shape[1] += lead->shape(1);
  }
  Arrays grads;
  for (const int arg : argnums) {
    if (arg == 1) {
      ConvSpec forward = without_epilogue(parameters_.conv);
      forward.lead = parameters_.conv.lead;
      forward.out_type = to_dtype(dy.dtype());
      Arrays inputs{x, dw};
      if (lead) inputs.push_back(*lead);
      grads.push_back(make_conv(inputs, forward, s));
      continue;
    }
    const mx::array g = input_gradient(parameters_.conv, input_shape, dw, dy, to_dtype(x.dtype()), s);
    const int64_t frames = lead ? lead->shape(1) : 0;
    grads.push_back(arg == 0 ? slice_axis(g, 1, frames, input_shape[1], s) : slice_axis(g, 1, 0, frames, s));
  }
  return grads;
}

Arrays ConvWeightGradient::jvp(const Arrays& primals, const Arrays& tangents,
                               const std::vector<int>& argnums) {
  const mx::StreamOrDevice s = stream();
  std::vector<std::optional<mx::array>> tangent(primals.size());
  for (size_t i = 0; i < argnums.size(); ++i) tangent[argnums[i]] = tangents[i];
  const auto or_zeros = [&](int i) { return tangent[i] ? *tangent[i] : mx::zeros_like(primals[i], s); };
  const mx::Shape shape = weight_shape(primals);
  std::optional<mx::array> total;
  const auto add = [&](const mx::array& term) { total = total ? mx::add(*total, term, s) : term; };
  if (tangent[0] || (parameters_.conv.lead && tangent[2])) {
    std::optional<mx::array> lead;
    if (parameters_.conv.lead) lead = or_zeros(2);
    add(weight_gradient(parameters_.conv, or_zeros(0), lead, primals[1], shape, parameters_.conv.out_type,
                        s));
  }
  if (tangent[1]) {
    std::optional<mx::array> lead;
    if (parameters_.conv.lead) lead = primals[2];
    add(weight_gradient(parameters_.conv, primals[0], lead, *tangent[1], shape, parameters_.conv.out_type,
                        s));
  }
  return {total ? *total : mx::zeros(shape, to_mlx(parameters_.conv.out_type), s)};
}

}  // namespace mlx_conv3d
