#pragma once

#include <utility>
#include <vector>

#include "core/problem.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

namespace mlx_conv3d {

namespace mx = mlx::core;

struct NormSpec {
  float eps = 0;
  Activation activation = Activation::none;  ///< none, relu or silu

  bool operator==(const NormSpec&) const = default;
};

/// activation(x / sqrt(mean(x^2) + eps) * weight) over the last axis of x (..., C), weight (C). The result
/// has the type that both promote to. Throws std::invalid_argument naming the argument.
mx::array rms_norm(const mx::array& x, const mx::array& weight, const NormSpec& spec, mx::StreamOrDevice s);

/// Inputs: x (N, D, H, W, C), weight (C).
class RMSNorm : public mx::Primitive {
 public:
  RMSNorm(mx::Stream stream, NormSpec spec) : mx::Primitive(stream), spec_(spec) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  std::vector<mx::array> jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) override;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  const char* name() const override { return "Conv3dRMSNorm"; }
  bool is_equivalent(const mx::Primitive& other) const override;
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[0].shape()};
  }

 private:
  NormSpec spec_;
};

/// Inputs: x, weight, dy. Outputs: dL/dx, dL/dweight, each of its operand's shape and type.
class RMSNormGradient : public mx::Primitive {
 public:
  RMSNormGradient(mx::Stream stream, NormSpec spec) : mx::Primitive(stream), spec_(spec) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  std::vector<mx::array> jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) override;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  const char* name() const override { return "Conv3dRMSNormGradient"; }
  bool is_equivalent(const mx::Primitive& other) const override;

 private:
  NormSpec spec_;
};

}  // namespace mlx_conv3d
