// The convolution from MLX's own operations: what an unsupported type, MLX_CONV3D_DISABLE, algorithm="stock",
// a GPU that is not Metal's and a GPU plan that prefers it get. Where stock MLX has no such convolution
// (grouped 3-D, padding modes) it is composed.

#include <algorithm>

#include "core/integers.h"
#include "core/ops.h"

namespace mlx_conv3d {
namespace {

mx::array upsampled(mx::array x, const ConvSpec& spec, mx::StreamOrDevice s) {
  for (int axis = 0; axis < 3; ++axis) {
    if (spec.upsample[axis] > 1) x = mx::repeat(x, static_cast<int>(spec.upsample[axis]), axis + 1, s);
  }
  return x;
}

/// Writes an edge or reflect padding out, which conv_general does not know.
mx::array materialise_padding(mx::array x, ConvSpec& spec, mx::StreamOrDevice s) {
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t lo = std::max<int64_t>(0, spec.pad_lo[axis]), hi = std::max<int64_t>(0, spec.pad_hi[axis]);
    if (spec.pad_mode[axis] == PadMode::zeros || lo + hi == 0) continue;
    const int64_t n = x.shape(axis + 1);
    std::vector<int32_t> from;
    for (int64_t q = -lo; q < n + hi; ++q) {
      const int64_t mirrored = q < 0 ? -q : q >= n ? 2 * (n - 1) - q : q;
      from.push_back(static_cast<int32_t>(
          spec.pad_mode[axis] == PadMode::edge ? std::clamp<int64_t>(q, 0, n - 1) : mirrored));
    }
    const int count = static_cast<int>(from.size());
    x = mx::take(x, mx::array(from.data(), {count}, mx::int32), axis + 1, s);
    spec.pad_lo[axis] -= lo;
    spec.pad_hi[axis] -= hi;
  }
  return x;
}

/// A negative padding crops positions of the dilated input; conv_general would crop as many elements.
mx::array crop_negative_padding(mx::array x, ConvSpec& spec, mx::StreamOrDevice s) {
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t dilation = spec.input_dilation[axis], n = x.shape(axis + 1);
    const int64_t lo = std::min(n, divide_up(std::max<int64_t>(0, -spec.pad_lo[axis]), dilation));
    const int64_t hi = std::min(n - lo, divide_up(std::max<int64_t>(0, -spec.pad_hi[axis]), dilation));
    if (lo + hi == 0) continue;
    x = slice_axis(x, axis + 1, lo, n - hi, s);
    spec.pad_lo[axis] += lo * dilation;
    spec.pad_hi[axis] += hi * dilation;
  }
  return x;
}

/// Whether the depth axis takes no part, so that a 2-D convolution does.
bool is_flat(const mx::array& x, const mx::array& w, const ConvSpec& spec) {
  return x.shape(1) == 1 && w.shape(1) == 1 && spec.pad_lo[0] == 0 && spec.pad_hi[0] == 0;
}

/// One conv_general, in as many dimensions as are needed: stock MLX groups only 1-D and 2-D convolutions.
mx::array general(const mx::array& x, const mx::array& w, const ConvSpec& spec, int64_t groups,
                  mx::StreamOrDevice s) {
  const bool flat = is_flat(x, w, spec);
  std::vector<int> stride, lo, hi, dilation, input_dilation;
  for (int axis = flat ? 1 : 0; axis < 3; ++axis) {
    stride.push_back(static_cast<int>(spec.stride[axis]));
    lo.push_back(static_cast<int>(spec.pad_lo[axis]));
    hi.push_back(static_cast<int>(spec.pad_hi[axis]));
    dilation.push_back(static_cast<int>(spec.dilation[axis]));
    input_dilation.push_back(static_cast<int>(spec.input_dilation[axis]));
  }
  if (!flat) return mx::conv_general(x, w, stride, lo, hi, dilation, input_dilation, 1, spec.flip, s);
  return mx::expand_dims(mx::conv_general(mx::squeeze(x, 1, s), mx::squeeze(w, 1, s), stride, lo, hi,
                                          dilation, input_dilation, static_cast<int>(groups), spec.flip, s),
                         1, s);
}

mx::array grouped(const mx::array& x, const mx::array& w, const ConvSpec& spec, mx::StreamOrDevice s) {
  const bool flat = is_flat(x, w, spec);
  if (spec.groups == 1 || flat) return general(x, w, spec, spec.groups, s);
  std::vector<mx::array> parts;
  const int64_t in = x.shape(4) / spec.groups, out = w.shape(0) / spec.groups;
  for (int64_t g = 0; g < spec.groups; ++g) {
    parts.push_back(general(slice_axis(x, 4, g * in, (g + 1) * in, s),
                            slice_axis(w, 0, g * out, (g + 1) * out, s), spec, 1, s));
  }
  return mx::concatenate(std::move(parts), 4, s);
}

mx::array activate(Activation activation, const mx::array& z, mx::StreamOrDevice s) {
  const auto number = [&](float v) { return mx::array(v, z.dtype()); };
  switch (activation) {
    case Activation::relu:
      return mx::maximum(z, number(0.0f), s);
    case Activation::silu:
      return mx::multiply(z, mx::sigmoid(z, s), s);
    case Activation::gelu: {
      const mx::array erf = mx::erf(mx::multiply(z, number(0.7071067811865475f), s), s);
      return mx::multiply(mx::multiply(z, number(0.5f), s), mx::add(erf, number(1.0f), s), s);
    }
    case Activation::sigmoid:
      return mx::sigmoid(z, s);
    case Activation::tanh:
      return mx::tanh(z, s);
    case Activation::none:
      break;
  }
  return z;
}

}  // namespace

mx::array stock_conv(const mx::array& x, const mx::array& w, const ConvSpec& requested,
                     const ConvExtras& extras, mx::StreamOrDevice s) {
  ConvSpec spec = requested;
  mx::array input = extras.lead ? mx::concatenate({*extras.lead, x}, 1, s) : x;
  const ConvProblem p = requested.bind(input.shape(), Dtype::float32, w.shape(), Dtype::float32, 0);
  const mx::Shape out{x.shape(0), static_cast<int>(p.output(0)), static_cast<int>(p.output(1)),
                      static_cast<int>(p.output(2)), w.shape(0)};
  input = upsampled(std::move(input), spec, s);
  input = crop_negative_padding(materialise_padding(std::move(input), spec, s), spec, s);
  mx::array y = input.size() == 0 || w.size() == 0 || p.empty()
                    ? mx::zeros(out, mx::promote_types(input.dtype(), w.dtype()), s)
                    : grouped(input, w, spec, s);
  if (extras.bias) y = mx::add(y, *extras.bias, s);
  y = activate(spec.activation, y, s);
  if (extras.residual) y = mx::add(y, *extras.residual, s);
  return y;
}

mx::array stock_conv(const std::vector<mx::array>& inputs, const ConvSpec& spec, mx::StreamOrDevice s) {
  // A result that is wider than x and w is summed in its own type.
  const mx::Dtype type = to_mlx(spec.out_type);
  const bool widen = spec.out_type == Dtype::float32;
  const auto wide = [&](const mx::array& a) { return widen ? mx::astype(a, type, s) : a; };
  const ConvInputs at(spec);
  ConvExtras extras;
  if (spec.lead) extras.lead = wide(inputs[at.lead]);
  if (spec.bias) extras.bias = inputs[at.bias];
  if (spec.residual) extras.residual = inputs[at.residual];
  return mx::astype(stock_conv(wide(inputs[0]), wide(inputs[1]), spec, extras, s), type, s);
}

mx::array stock_weight_gradient(const ConvSpec& spec, const mx::array& x,
                                const std::optional<mx::array>& lead, const mx::array& dy,
                                const mx::Shape& w_shape, Dtype type, mx::StreamOrDevice s) {
  ConvSpec linear = spec;
  linear.out_type = Dtype::float32;
  const auto of_weights = [&](const std::vector<mx::array>& w) -> std::vector<mx::array> {
    std::vector<mx::array> inputs{x, w[0]};
    if (lead) inputs.push_back(*lead);
    return {stock_conv(inputs, linear, s)};
  };
  // The convolution is linear in w, so its derivative may be taken at zero.
  const mx::array origin = mx::zeros(w_shape, mx::float32, s);
  const mx::array cotangent = mx::astype(dy, mx::float32, s);
  return mx::astype(mx::vjp(of_weights, {origin}, {cotangent}).second[0], to_mlx(type), s);
}

}  // namespace mlx_conv3d
