#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "core/missing_axes.h"
#include "core/primitive.h"

namespace mlx_conv3d {

/// Conv on a CPU stream for arrays of fewer spatial axes. They are given the missing ones when it is
/// evaluated, by no operation of their own: a small convolution would spend most of its time between
/// operations.
class FlatConv : public Conv {
 public:
  FlatConv(mx::Stream stream, ConvSpec spec, MissingAxes missing)
      : Conv(stream, std::move(spec), std::nullopt), missing_(std::move(missing)) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override;
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  MappedArrays vmap(const Arrays& inputs, const std::vector<int>& axes) override;
  const char* name() const override { return "Conv3dFlatConv"; }
  bool is_equivalent(const mx::Primitive& other) const override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;

 private:
  /// Whether input i has spatial axes: bias and packed weights have none.
  bool is_spatial(int i) const;
  Conv whole() { return Conv(stream(), spec(), std::nullopt); }
  Arrays lifted_arrays(const Arrays& arrays, const std::vector<int>& inputs);
  Arrays lifted_inputs(const Arrays& inputs);

  const MissingAxes missing_;
};

}  // namespace mlx_conv3d
