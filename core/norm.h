#pragma once

#include <vector>

#include "core/cpu_primitive.h"
#include "core/problem.h"

namespace mlx_conv3d {

struct NormSpec {
  float eps = 0;
  Activation activation = Activation::none;  ///< none, relu or silu

  bool operator==(const NormSpec&) const = default;
};

/// activation(x / sqrt(mean(x^2) + eps) * weight) over the last axis of x (..., C), weight (C). The result
/// has the type that both promote to. Throws std::invalid_argument naming the argument.
mx::array rms_norm(const mx::array& x, const mx::array& weight, const NormSpec& spec, mx::StreamOrDevice s);

/// Inputs: x (N, D, H, W, C), weight (C).
class RMSNorm : public CpuPrimitive<NormSpec> {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override;
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  MappedArrays vmap(const Arrays& inputs, const std::vector<int>& axes) override;
  const char* name() const override { return "Conv3dRMSNorm"; }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
};

/// Inputs: x, weight, dy. Outputs: dL/dx, dL/dweight, each of its operand's shape and type.
class RMSNormGradient : public CpuPrimitive<NormSpec> {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override;
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  MappedArrays vmap(const Arrays& inputs, const std::vector<int>& axes) override;
  const char* name() const override { return "Conv3dRMSNormGradient"; }
};

}  // namespace mlx_conv3d
