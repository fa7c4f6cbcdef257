// vmap of Conv and ConvWeightGradient: a batch of inputs joins N; a batch of weights becomes groups.

#include <algorithm>

#include "core/ops.h"
#include "core/primitive.h"

namespace mlx_conv3d {
namespace {

/// (B, N, ..., C) -> (B*N, ..., C)
mx::array into_batch(const mx::array& a, mx::StreamOrDevice s) { return mx::flatten(a, 0, 1, s); }

/// (B, N, ..., C) -> (N, ..., B*C)
mx::array into_channels(const mx::array& a, mx::StreamOrDevice s) {
  const int last = static_cast<int>(a.ndim()) - 1;
  return mx::flatten(mx::moveaxis(a, 0, last - 1, s), last - 1, last, s);
}

/// (N, ..., B*C) -> (B, N, ..., C)
mx::array out_of_channels(const mx::array& a, int size, mx::StreamOrDevice s) {
  const int last = static_cast<int>(a.ndim()) - 1;
  const mx::array split = mx::unflatten(a, last, {size, a.shape(last) / size}, s);
  return mx::moveaxis(split, last, 0, s);
}

}  // namespace

MappedArrays Conv::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  const mx::StreamOrDevice s = stream();
  const int size = mapped_size(inputs, axes);
  const ConvInputs at(spec_);
  const bool weights_mapped = axes[1] >= 0 || (spec_.bias && axes[at.bias] >= 0);
  ConvSpec spec = spec_;
  Arrays mapped;
  const auto first = [&](int i) { return with_axis_first(inputs[i], axes[i], size, s); };

  if (!weights_mapped) {
    mapped = {into_batch(first(0), s), inputs[1]};
    if (spec.lead) mapped.push_back(into_batch(first(at.lead), s));
    if (spec.bias) mapped.push_back(inputs[at.bias]);
    if (spec.residual) mapped.push_back(into_batch(first(at.residual), s));
    if (spec.packed.m > 0) mapped.push_back(inputs[at.packed]);
    const mx::array y = make_conv(mapped, spec, s);
    return {{mx::unflatten(y, 0, {size, y.shape(0) / size}, s)}, {0}};
  }

  // The packed weights are those of the unmapped problem.
  spec.packed = {};
  spec.forced.reset();
  spec.groups *= size;
  mapped = {into_channels(first(0), s), into_batch(first(1), s)};
  if (spec.lead) mapped.push_back(into_channels(first(at.lead), s));
  if (spec.bias) mapped.push_back(mx::flatten(first(at.bias), 0, 1, s));
  if (spec.residual) mapped.push_back(into_channels(first(at.residual), s));
  return {{out_of_channels(make_conv(mapped, spec, s), size, s)}, {0}};
}

MappedArrays ConvWeightGradient::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  const mx::StreamOrDevice s = stream();
  const int size = mapped_size(inputs, axes);
  ConvSpec spec = parameters_.conv;
  spec.groups *= size;
  const auto grouped = [&](size_t i) {
    return into_channels(with_axis_first(inputs[i], axes[i], size, s), s);
  };
  const mx::array x = grouped(0), dy = grouped(1);
  std::optional<mx::array> lead;
  if (spec.lead) lead = grouped(2);
  const mx::Shape shape{dy.shape(4), static_cast<int>(parameters_.kernel[0]),
                        static_cast<int>(parameters_.kernel[1]), static_cast<int>(parameters_.kernel[2]),
                        static_cast<int>(x.shape(4) / spec.groups)};
  const mx::array dw = weight_gradient(spec, x, lead, dy, shape, spec.out_type, s);
  return {{mx::unflatten(dw, 0, {size, dw.shape(0) / size}, s)}, {0}};
}

}  // namespace mlx_conv3d
