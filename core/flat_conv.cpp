#include "core/flat_conv.h"

#include <numeric>

#include "core/ops.h"

namespace mlx_conv3d {
namespace {

/// What mx::expand_dims(a, missing) evaluates to.
mx::array lifted_view(const mx::array& a, const MissingAxes& missing) {
  mx::Strides strides = a.strides();
  for (int axis : missing) strides.insert(strides.begin() + axis, 1);
  mx::array view(lifted(a.shape(), missing), a.dtype(), nullptr, {});
  view.copy_shared_buffer(a, strides, a.flags(), a.data_size());
  return view;
}

}  // namespace

bool FlatConv::is_spatial(int i) const {
  const ConvInputs at(spec());
  return i != at.bias && i != at.packed;
}

/// `arrays` are inputs, tangents or gradients of the inputs numbered so.
Arrays FlatConv::lifted_arrays(const Arrays& arrays, const std::vector<int>& inputs) {
  Arrays made;
  for (size_t i = 0; i < arrays.size(); ++i) {
    made.push_back(is_spatial(inputs[i]) ? lift(arrays[i], missing_, stream()) : arrays[i]);
  }
  return made;
}

Arrays FlatConv::lifted_inputs(const Arrays& inputs) {
  std::vector<int> all(inputs.size());
  std::iota(all.begin(), all.end(), 0);
  return lifted_arrays(inputs, all);
}

void FlatConv::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  Arrays views;
  for (size_t i = 0; i < inputs.size(); ++i) {
    views.push_back(is_spatial(static_cast<int>(i)) ? lifted_view(inputs[i], missing_) : inputs[i]);
  }
  Conv::eval_cpu(views, outputs);
}

bool FlatConv::is_equivalent(const mx::Primitive& other) const {
  return Conv::is_equivalent(other) && missing_ == static_cast<const FlatConv&>(other).missing_;
}

std::vector<mx::Shape> FlatConv::output_shapes(const Arrays& inputs) {
  const auto shape = [&](int i) { return lifted(inputs[i].shape(), missing_); };
  const int64_t lead = spec().lead ? shape(ConvInputs(spec()).lead)[1] : 0;
  const ConvProblem p =
      spec().bind(shape(0), to_dtype(inputs[0].dtype()), shape(1), to_dtype(inputs[1].dtype()), lead);
  p.validate();
  return {lowered(output_shape(p), missing_)};
}

Arrays FlatConv::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
  const Arrays made = whole().jvp(lifted_inputs(primals), lifted_arrays(tangents, argnums), argnums);
  return {lower(made[0], missing_, stream())};
}

Arrays FlatConv::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                     const Arrays& outputs) {
  Arrays grads = whole().vjp(lifted_inputs(primals), {lift(cotangents[0], missing_, stream())}, argnums,
                             {lift(outputs[0], missing_, stream())});
  for (size_t i = 0; i < grads.size(); ++i) {
    if (is_spatial(argnums[i])) grads[i] = lower(grads[i], missing_, stream());
  }
  return grads;
}

MappedArrays FlatConv::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  // The mapped axis comes first, so that the missing ones are one further on.
  const auto further = [&](const MissingAxes& axes) {
    MissingAxes next = axes;
    for (int& axis : next) ++axis;
    return next;
  };
  Arrays mapped;
  std::vector<int> first;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool has = axes[i] >= 0;
    const mx::array a = has && axes[i] > 0 ? mx::moveaxis(inputs[i], axes[i], 0, stream()) : inputs[i];
    first.push_back(has ? 0 : -1);
    mapped.push_back(
        !is_spatial(static_cast<int>(i)) ? a : lift(a, has ? further(missing_) : missing_, stream()));
  }
  const auto [made, at] = whole().vmap(mapped, first);
  return {{lower(made[0], further(missing_), stream())}, at};
}

}  // namespace mlx_conv3d
