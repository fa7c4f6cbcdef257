#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "core/missing_axes.h"
#include "core/plan.h"
#include "core/primitive.h"
#include "mlx/mlx.h"

namespace mlx_conv3d {

namespace mx = mlx::core;

/// Arrays of a convolution beside x and w.
struct ConvExtras {
  std::optional<mx::array> lead;
  std::optional<mx::array> bias;
  std::optional<mx::array> residual;
  std::optional<mx::array> packed;  ///< weights transformed for packed_form, see pack_weights
  WinogradForm packed_form;
};

/// y = activation(conv(x, w) + bias) + residual for x (N, D, H, W, C) and w (O, KD, KH, KW, C/groups), all of
/// them, and y, without the axes `missing`. The result has the type that x, w and the extras promote to.
/// Throws std::invalid_argument naming the argument.
mx::array conv(const mx::array& x, const mx::array& w, const ConvSpec& spec, const ConvExtras& extras,
               std::optional<Algorithm> forced, const MissingAxes& missing, mx::StreamOrDevice s);

/// The same of a stream's next frames, and the last `kept` of the lead frames followed by x's.
std::pair<mx::array, mx::array> conv_keeping(const mx::array& x, const mx::array& w, const ConvSpec& spec,
                                             const ConvExtras& extras, std::optional<Algorithm> forced,
                                             const MissingAxes& missing, int64_t kept, mx::StreamOrDevice s);

/// The same from MLX's own operations (core/stock.cpp).
mx::array stock_conv(const mx::array& x, const mx::array& w, const ConvSpec& spec, const ConvExtras& extras,
                     mx::StreamOrDevice s);

/// The same for the inputs of a Conv primitive, with the type that spec says.
mx::array stock_conv(const std::vector<mx::array>& inputs, const ConvSpec& spec, mx::StreamOrDevice s);
/// dL/dw from the derivatives of those operations.
mx::array stock_weight_gradient(const ConvSpec& spec, const mx::array& x,
                                const std::optional<mx::array>& lead, const mx::array& dy,
                                const mx::Shape& w_shape, Dtype type, mx::StreamOrDevice s);

/// Transformed weights, as an fp32 array that `conv` takes as extras.packed.
mx::array pack_weights(const mx::array& w, WinogradForm form, bool flip, int groups, mx::StreamOrDevice s);

/// Whether the type is one that the kernels compute with.
bool is_supported(mx::Dtype type);
Dtype to_dtype(mx::Dtype type);
mx::Dtype to_mlx(Dtype type);

/// Elements [begin, end) of one axis.
mx::array slice_axis(const mx::array& a, int axis, int64_t begin, int64_t end, mx::StreamOrDevice s);

/// What `vmap` maps, its axis first; an array without one is repeated `size` times.
mx::array with_axis_first(const mx::array& a, int axis, int size, mx::StreamOrDevice s);

/// How many of what `vmap` maps: the size of the mapped axes, 1 if there are none.
int mapped_size(const std::vector<mx::array>& inputs, const std::vector<int>& axes);

/// MLX_CONV3D_DISABLE=1: everything is stock.
bool disabled();

}  // namespace mlx_conv3d
