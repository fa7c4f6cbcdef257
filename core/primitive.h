#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "core/cpu_primitive.h"
#include "core/plan.h"
#include "core/problem.h"

namespace mlx_conv3d {

/// A convolution's parameters, without the sizes that its inputs bring.
struct ConvSpec {
  Size3 stride{1, 1, 1};
  Size3 pad_lo{0, 0, 0};
  Size3 pad_hi{0, 0, 0};
  Size3 dilation{1, 1, 1};
  Size3 input_dilation{1, 1, 1};
  Size3 upsample{1, 1, 1};
  std::array<PadMode, 3> pad_mode{PadMode::zeros, PadMode::zeros, PadMode::zeros};
  int64_t groups = 1;
  bool flip = false;
  Activation activation = Activation::none;
  bool lead = false, bias = false, residual = false;
  WinogradForm packed;  ///< m > 0: the last input is w transformed to this form
  bool per_frame = false, odd_frame = false;
  /// w is that of the convolution whose adjoint this is, (C, KD, KH, KW, O/groups), and read with its
  /// channels swapped within each group; only on CPUs.
  bool swapped = false;
  Dtype out_type = Dtype::float32;
  std::optional<Algorithm> forced;

  bool operator==(const ConvSpec&) const = default;

  /// Without lead frames, epilogue and packed weights, for any number of frames.
  ConvSpec bare() const;
  ConvProblem bind(const mx::Shape& x, Dtype x_type, const mx::Shape& w, Dtype w_type,
                   int64_t lead_frames) const;
};

/// Where Conv's inputs are that follow x and w; -1 for those that the spec is without.
struct ConvInputs {
  int lead = -1, bias = -1, residual = -1, packed = -1;

  explicit ConvInputs(const ConvSpec& spec) {
    int next = 2;
    if (spec.lead) lead = next++;
    if (spec.bias) bias = next++;
    if (spec.residual) residual = next++;
    if (spec.packed.m > 0) packed = next++;
  }
};

/// Inputs: x, w, then lead, bias (fp32), residual (of the output's type) and packed weights as the spec says.
/// A second output on a CPU: see StreamStep.
class Conv : public mx::Primitive {
 public:
  Conv(mx::Stream stream, ConvSpec spec, std::optional<Algorithm> on_gpu)
      : mx::Primitive(stream), spec_(std::move(spec)), on_gpu_(on_gpu) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override;
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override;
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  MappedArrays vmap(const Arrays& inputs, const std::vector<int>& axes) override;
  const char* name() const override { return "Conv3dConv"; }
  bool is_equivalent(const mx::Primitive& other) const override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;

  const ConvSpec& spec() const { return spec_; }
  ConvProblem problem(const Arrays& inputs) const;

 private:
  ConvSpec spec_;
  std::optional<Algorithm> on_gpu_;  ///< for a GPU stream: whose kernels have been checked
};

struct WeightGradientSpec {
  ConvSpec conv;
  Size3 kernel;

  bool operator==(const WeightGradientSpec&) const = default;
};

/// dL/dw. Inputs: x, dy, then lead as the spec says. The output has the type conv.out_type.
class ConvWeightGradient : public CpuPrimitive<WeightGradientSpec> {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override;
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  MappedArrays vmap(const Arrays& inputs, const std::vector<int>& axes) override;
  const char* name() const override { return "Conv3dWeightGradient"; }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;

 private:
  mx::Shape weight_shape(const Arrays& inputs) const;
};

/// Of (O, KD, KH, KW, C) weights.
inline Size3 kernel_of(const mx::Shape& w) { return {w[1], w[2], w[3]}; }

/// (N, oD, oH, oW, O). Throws std::invalid_argument for an axis that is longer than MLX's can be.
mx::Shape output_shape(const ConvProblem& problem);

struct PackedWeightsSpec {
  WinogradForm form;
  bool flip = false;
  int groups = 1;

  bool operator==(const PackedWeightsSpec&) const = default;
};

/// w transformed for a form of Winograd, in the layout of the CPU's winograd, or of grouped where there are
/// groups.
class PackWeights : public CpuPrimitive<PackedWeightsSpec> {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override;
  const char* name() const override { return "Conv3dPackWeights"; }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
};

/// One convolution of 5-D arrays, of any supported types, with spec.out_type as it is: by the primitive, or
/// by stock MLX where route() says so on a GPU.
mx::array make_conv(Arrays inputs, ConvSpec spec, mx::StreamOrDevice s);
/// By the primitive; for a GPU stream with the algorithm that route() has chosen.
mx::array conv_primitive(Arrays inputs, ConvSpec spec, std::optional<Algorithm> on_gpu, mx::StreamOrDevice s);

/// dL/d(lead then x), as one array of the logical input's length.
mx::array input_gradient(const ConvSpec& spec, const mx::Shape& input_shape, const mx::array& w,
                         const mx::array& dy, Dtype type, mx::StreamOrDevice s);
mx::array weight_gradient(const ConvSpec& spec, const mx::array& x, const std::optional<mx::array>& lead,
                          const mx::array& dy, const mx::Shape& w_shape, Dtype type, mx::StreamOrDevice s);

}  // namespace mlx_conv3d
