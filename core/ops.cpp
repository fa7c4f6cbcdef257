#include "core/ops.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "core/flat_conv.h"
#include "core/plan_cache.h"
#include "core/route.h"
#include "core/stream_step.h"

namespace mlx_conv3d {
namespace {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  message << "[conv] ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

void require_floating(const char* name, const mx::array& a) {
  if (!mx::issubdtype(a.dtype(), mx::floating)) {
    fail("Invalid ", name, " with type ", a.dtype(),
         ". Convolution currently only supports floating point types");
  }
}

/// `x` and `w` are shapes of 5 axes.
void require_shapes(const mx::Shape& x, const mx::Shape& w, const ConvSpec& spec, const ConvExtras& extras,
                    const MissingAxes& missing) {
  const auto given = [&](const mx::Shape& shape) { return lowered(shape, missing); };
  const int64_t groups = spec.groups;
  if (groups <= 0) fail("groups must be positive, got ", groups, ".");
  if (x[4] % groups != 0) {
    fail("The input channels must be divisible by groups. Got x with shape ", given(x), " and groups ",
         groups, ".");
  }
  if (w[0] % groups != 0) {
    fail("The output channels must be divisible by groups. Got w with shape ", given(w), " and groups ",
         groups, ".");
  }
  if (x[4] != groups * w[4]) {
    fail("Expect the input channels of x and w to match but got shapes - x: ", given(x), " and w: ", given(w),
         " with groups ", groups, ".");
  }
  if (extras.lead) {
    mx::Shape lead = lifted(extras.lead->shape(), missing);
    bool fits = lead.size() == 5;
    for (int i : {0, 2, 3, 4}) fits = fits && lead[i] == x[i];
    if (!fits) {
      fail("lead must be (N, frames, ..., C) like x ", given(x), ", got ", extras.lead->shape(), ".");
    }
  }
  if (extras.bias && extras.bias->shape() != mx::Shape{w[0]}) {
    fail("bias must have shape (", w[0], ") for w ", given(w), ", got ", extras.bias->shape(), ".");
  }
}

/// Whether frames of a shape are few enough to be another output of a convolution: they are there while x,
/// the lead frames and the result are, as those that are copied after it are not.
bool is_small(const mx::Shape& frames) {
  constexpr int64_t kFloats = 1 << 14;
  int64_t floats = 1;
  for (int size : frames) floats *= size;
  return floats <= kFloats;
}

}  // namespace

bool is_supported(mx::Dtype type) {
  return type == mx::float32 || type == mx::float16 || type == mx::bfloat16;
}

Dtype to_dtype(mx::Dtype type) {
  if (type == mx::float16) return Dtype::float16;
  if (type == mx::bfloat16) return Dtype::bfloat16;
  return Dtype::float32;
}

mx::Dtype to_mlx(Dtype type) {
  switch (type) {
    case Dtype::float16:
      return mx::float16;
    case Dtype::bfloat16:
      return mx::bfloat16;
    case Dtype::float32:
      break;
  }
  return mx::float32;
}

mx::array slice_axis(const mx::array& a, int axis, int64_t begin, int64_t end, mx::StreamOrDevice s) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[axis] = static_cast<int>(begin);
  stop[axis] = static_cast<int>(end);
  return mx::slice(a, start, stop, s);
}

mx::array with_axis_first(const mx::array& a, int axis, int size, mx::StreamOrDevice s) {
  if (axis >= 0) return axis == 0 ? a : mx::moveaxis(a, axis, 0, s);
  mx::Shape shape = a.shape();
  shape.insert(shape.begin(), size);
  return mx::broadcast_to(mx::expand_dims(a, 0, s), shape, s);
}

int mapped_size(const std::vector<mx::array>& inputs, const std::vector<int>& axes) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (axes[i] >= 0) return inputs[i].shape(axes[i]);
  }
  return 1;
}

bool disabled() {
  const char* value = std::getenv("MLX_CONV3D_DISABLE");
  return value != nullptr && std::strcmp(value, "") != 0 && std::strcmp(value, "0") != 0;
}

namespace {

/// conv's y; with `kept` frames these as well, where one operation gives both.
Arrays build(const mx::array& x, const mx::array& w, const ConvSpec& requested, const ConvExtras& extras,
             std::optional<Algorithm> forced, const MissingAxes& missing, int64_t kept,
             mx::StreamOrDevice s) {
  require_floating("x", x);
  require_floating("w", w);
  if (extras.lead) require_floating("lead", *extras.lead);
  if (extras.bias) require_floating("bias", *extras.bias);
  if (extras.residual) require_floating("residual", *extras.residual);
  const mx::Shape x_shape = lifted(x.shape(), missing), w_shape = lifted(w.shape(), missing);
  require_shapes(x_shape, w_shape, requested, extras, missing);

  bool supported = is_supported(x.dtype()) && is_supported(w.dtype());
  mx::Dtype type = mx::promote_types(x.dtype(), w.dtype());
  for (const auto& extra : {extras.lead, extras.bias, extras.residual}) {
    if (extra) {
      type = mx::promote_types(type, extra->dtype());
      supported = supported && is_supported(extra->dtype());
    }
  }
  ConvSpec spec = requested;
  spec.out_type = to_dtype(type);
  spec.forced = forced;
  spec.lead = extras.lead && extras.lead->shape(1) > 0;
  spec.bias = extras.bias.has_value();
  spec.residual = extras.residual.has_value();

  const int64_t lead_frames = spec.lead ? lifted(extras.lead->shape(), missing)[1] : 0;
  ConvProblem p = spec.bind(x_shape, to_dtype(x.dtype()), w_shape, to_dtype(w.dtype()), lead_frames);
  // x and its lead frames are read by the same loader, so they share a type.
  mx::Dtype frames = x.dtype();
  if (spec.lead) frames = mx::promote_types(frames, extras.lead->dtype());
  p.x_type = to_dtype(frames);
  p.validate();
  const mx::Shape whole_shape = output_shape(p), y_shape = lowered(whole_shape, missing);
  for (int axis : missing) {
    if (whole_shape[axis] != 1) {
      fail("padding, upsample and lead must leave 1 of axes that x does not have, not ", whole_shape[axis],
           ".");
    }
  }
  if (extras.residual && extras.residual->shape() != y_shape) {
    fail("residual must have the output's shape ", y_shape, ", got ", extras.residual->shape(), ".");
  }

  if (!supported && forced && forced != Algorithm::stock && !disabled()) {
    fail("algorithm ", name_of(*forced), " does not compute in ", type, ".");
  }
  // Planned now as well as when it is evaluated, so that a forced algorithm fails here, and so does the
  // limit.
  const Route chosen = supported ? route(p, forced, s) : Route{};
  if (chosen.stock()) {
    ConvExtras whole = extras;
    for (auto* extra : {&whole.lead, &whole.residual}) {
      if (*extra) *extra = lift(**extra, missing, s);
    }
    return {lower(stock_conv(lift(x, missing, s), lift(w, missing, s), spec, whole, s), missing, s)};
  }

  std::vector<mx::array> inputs{x, w};
  if (spec.lead) {
    inputs[0] = mx::astype(x, frames, s);
    inputs.push_back(mx::astype(*extras.lead, frames, s));
  }
  if (spec.bias) inputs.push_back(mx::astype(*extras.bias, mx::float32, s));
  if (spec.residual) inputs.push_back(mx::astype(*extras.residual, type, s));
  p.prepared = true;
  if (mx::to_stream(s).device == mx::Device::cpu) {
    if (extras.packed && uses_packed_weights(*cpu_plan(p, forced), extras.packed_form)) {
      spec.packed = extras.packed_form;
      inputs.push_back(*extras.packed);
    }
    mx::Shape kept_shape = x.shape();
    kept_shape[1] = static_cast<int>(kept);
    if (kept > 0 && kept <= p.stored(kDepth) && !p.empty() && is_small(kept_shape)) {
      const auto step = std::make_shared<StreamStep>(mx::to_stream(s), std::move(spec), missing, x.shape(1),
                                                     static_cast<int>(kept));
      return mx::array::make_arrays({y_shape, kept_shape}, {type, frames}, step, inputs);
    }
    if (missing.empty()) return {conv_primitive(std::move(inputs), std::move(spec), std::nullopt, s)};
    auto primitive = std::make_shared<FlatConv>(mx::to_stream(s), std::move(spec), missing);
    return {mx::array(y_shape, type, std::move(primitive), std::move(inputs))};
  }
  const ConvInputs at(spec);
  for (int i : {0, 1, at.lead, at.residual}) {
    if (i >= 0) inputs[i] = lift(inputs[i], missing, s);
  }
  const Algorithm on_gpu = chosen.plan->algorithm();
  return {lower(conv_primitive(std::move(inputs), std::move(spec), on_gpu, s), missing, s)};
}

}  // namespace

mx::array conv(const mx::array& x, const mx::array& w, const ConvSpec& spec, const ConvExtras& extras,
               std::optional<Algorithm> forced, const MissingAxes& missing, mx::StreamOrDevice s) {
  return build(x, w, spec, extras, forced, missing, 0, s)[0];
}

std::pair<mx::array, mx::array> conv_keeping(const mx::array& x, const mx::array& w, const ConvSpec& spec,
                                             const ConvExtras& extras, std::optional<Algorithm> forced,
                                             const MissingAxes& missing, int64_t kept, mx::StreamOrDevice s) {
  if (std::find(missing.begin(), missing.end(), kDepth + 1) != missing.end()) {
    fail("kept: x has no axis of frames.");
  }
  Arrays made = build(x, w, spec, extras, forced, missing, kept, s);
  if (made.size() > 1) return {std::move(made[0]), std::move(made[1])};
  return with_last_frames(made[0], extras.lead, x, kept, s);
}

mx::array pack_weights(const mx::array& w, WinogradForm form, bool flip, int groups, mx::StreamOrDevice s) {
  if (mx::to_stream(s).device != mx::Device::cpu) fail("weights are packed on the CPU, for the CPU.");
  auto primitive = std::make_shared<PackWeights>(mx::to_stream(s), PackedWeightsSpec{form, flip, groups});
  const mx::Shape shape = primitive->output_shapes({w})[0];
  return mx::array(shape, mx::float32, std::move(primitive), {w});
}

}  // namespace mlx_conv3d
