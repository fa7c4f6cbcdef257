#include "core/stream_step.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/ops.h"

namespace mlx_conv3d {

Arrays StreamStep::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
  const int lead = ConvInputs(spec()).lead;
  const auto tangent = [&](int input) {
    const auto at = std::find(argnums.begin(), argnums.end(), input);
    return at == argnums.end() ? mx::zeros_like(primals[input], stream()) : tangents[at - argnums.begin()];
  };
  std::optional<mx::array> before;
  if (lead >= 0) before = tangent(lead);
  Arrays made = FlatConv::jvp(primals, tangents, argnums);
  made.push_back(last_frames(before, tangent(0), kept_, stream()));
  return made;
}

Arrays StreamStep::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays& outputs) {
  const mx::StreamOrDevice s = stream();
  const int of_x = std::min(kept_, primals[0].shape(1)), of_lead = kept_ - of_x;
  Arrays grads = FlatConv::vjp(primals, {cotangents[0]}, argnums, {outputs[0]});
  for (size_t i = 0; i < argnums.size(); ++i) {
    const bool is_lead = argnums[i] == ConvInputs(spec()).lead;
    const int count = is_lead ? of_lead : of_x;
    if ((!is_lead && argnums[i] != 0) || count == 0) continue;
    const mx::array part = slice_axis(cotangents[1], 1, is_lead ? 0 : of_lead, is_lead ? of_lead : kept_, s);
    const int before = grads[i].shape(1) - count;
    grads[i] =
        mx::add(grads[i], mx::pad(part, {1}, {before}, {0}, mx::array(0, part.dtype()), "constant", s), s);
  }
  return grads;
}

MappedArrays StreamStep::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  const int size = mapped_size(inputs, axes), lead = ConvInputs(spec()).lead;
  const auto first = [&](int i) { return with_axis_first(inputs[i], axes[i], size, stream()); };
  std::optional<mx::array> before;
  if (lead >= 0) before = first(lead);
  auto [made, at] = FlatConv::vmap(inputs, axes);
  made.push_back(last_frames(before, first(0), kept_, stream(), 2));
  at.push_back(0);
  return {made, at};
}

bool StreamStep::is_equivalent(const mx::Primitive& other) const {
  const auto& step = static_cast<const StreamStep&>(other);
  return FlatConv::is_equivalent(other) && frames_ == step.frames_ && kept_ == step.kept_;
}

std::vector<mx::Shape> StreamStep::output_shapes(const Arrays& inputs) {
  if (inputs[0].shape(1) != frames_) {
    throw std::invalid_argument("[conv] a stream's step of " + std::to_string(frames_) +
                                " frames cannot take x of " + std::to_string(inputs[0].shape(1)) +
                                ": what the next state keeps depends on them.");
  }
  std::vector<mx::Shape> shapes = FlatConv::output_shapes(inputs);
  shapes.push_back(inputs[0].shape());
  shapes[1][1] = kept_;
  return shapes;
}

mx::array last_frames(const std::optional<mx::array>& lead, const mx::array& x, int64_t count,
                      mx::StreamOrDevice s, int axis) {
  const int64_t here = x.shape(axis), before = lead ? lead->shape(axis) : 0;
  if (count < 0 || count > before + here) {
    throw std::invalid_argument("[conv] kept must be in [0, " + std::to_string(before + here) + "], got " +
                                std::to_string(count) + ".");
  }
  const mx::Dtype type = lead ? mx::promote_types(lead->dtype(), x.dtype()) : x.dtype();
  const mx::array own = mx::astype(slice_axis(x, axis, here - std::min(count, here), here, s), type, s);
  if (count <= here) return mx::contiguous(own, false, s);
  return mx::concatenate({slice_axis(*lead, axis, before + here - count, before, s), own}, axis, s);
}

std::pair<mx::array, mx::array> with_last_frames(const mx::array& y, const std::optional<mx::array>& lead,
                                                 const mx::array& x, int64_t count, mx::StreamOrDevice s) {
  mx::array frames = last_frames(lead, x, count, s);
  if (y.is_tracer() || frames.is_tracer()) return {y, std::move(frames)};
  return {mx::depends({y}, {frames})[0], frames};
}

}  // namespace mlx_conv3d
