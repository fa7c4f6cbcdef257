#include "core/stock_route.h"

#include <algorithm>

#include "core/gpu_model.h"

namespace mlx_conv3d {

using namespace gpu;

namespace {

/// The passes after the convolution: bias, activation, residual, each read and written in the result's type.
double epilogue_bytes(const ConvProblem& p) {
  const double y =
      static_cast<double>(p.out_positions()) * p.out_channels * static_cast<double>(item_size(p.out_type));
  return y * (2.0 * p.bias + 2.0 * (p.activation != Activation::none) + 3.0 * p.residual);
}

/// Stock splits a convolution into one 2-D convolution per depth tap (MLX PR #3785).
bool stock_splits(const ConvProblem& p) {
  const bool depth_padding = p.padded(kDepth) && p.pad_mode[kDepth] == PadMode::zeros;
  return p.batch == 1 && p.groups == 1 && !depth_padding && p.stride[0] == 1 && p.dilation[0] == 1 &&
         !p.input_dilated() && p.kernel[0] <= 7 && p.in_channels % 16 == 0 && p.out_channels % 16 == 0;
}

/// Whether those take stock's Winograd F(6x6, 3x3).
bool stock_winograd(const ConvProblem& p) {
  const auto spatial = [&](const Size3& v, int64_t value) { return v[1] == value && v[2] == value; };
  return spatial(p.kernel, 3) && spatial(p.stride, 1) && spatial(p.dilation, 1) && !p.flip &&
         p.in_channels % 32 == 0 && p.out_channels % 32 == 0 &&
         p.output(0) * p.extent(1) * p.extent(2) >= 4096 && p.in_channels + p.out_channels >= 256;
}

}  // namespace

StockRoute stock_route(const ConvProblem& p, const Device& d) {
  const double item = static_cast<double>(item_size(p.out_type)), taps = static_cast<double>(p.kernel[0]);
  const double outputs = static_cast<double>(p.out_positions()) * p.out_channels;
  const double frame = static_cast<double>(p.batch * p.extent(1) * p.extent(2)) * p.in_channels;
  const double peak = 1e9 * (p.out_type == Dtype::float32 ? d.gflops : std::max(d.gflops, d.matrix_gflops));
  StockRoute r;
  // Lead frames, other paddings than zeros and upsampled pixels are copied together first.
  bool copies = p.lead > 0 || p.upsampled();
  for (int axis : {kDepth, kHeight, kWidth}) copies |= p.padded(axis) && p.pad_mode[axis] != PadMode::zeros;
  const double copied = copies ? 2 * item * frame * static_cast<double>(p.extent(0)) : 0;
  const double extra = epilogue_bytes(p) + copied;
  const double adds = 3 * item * outputs * (taps - 1);
  if (stock_splits(p) && stock_winograd(p)) {
    const double tiles =
        static_cast<double>(p.output(0) * divide_up(p.output(1), 6) * divide_up(p.output(2), 6));
    const double tile_in = 64 * tiles * p.in_channels * item, tile_out = 64 * tiles * p.out_channels * item;
    const double inputs = frame * static_cast<double>(p.output(0));
    r.name = "one 2-D Winograd F(6, 3) per depth tap";
    r.flops = 2 * 64 * tiles * p.in_channels * p.out_channels * taps;
    r.bytes = taps * (2 * item * inputs + 2 * tile_in + 2 * tile_out + item * outputs) + adds + extra;
    r.seconds = seconds(r.flops / (peak * kStockProductShare), r.bytes, d);
    r.workspace =
        static_cast<int64_t>(taps * (item * inputs + tile_in + tile_out) + item * outputs * (taps - 1));
    return r;
  }
  r.flops = p.direct_flops();
  const double product_seconds = r.flops / (peak * kStockImplicitShare);
  if (stock_splits(p)) {
    r.name = "one 2-D implicit GEMM per depth tap";
    r.bytes = p.operand_bytes() + (taps - 1) * item * (frame * static_cast<double>(p.output(0)) + outputs) +
              adds + extra;
    r.workspace = static_cast<int64_t>(item * outputs * (taps - 1));
  } else {
    r.name = "one 3-D implicit GEMM";
    r.bytes = p.operand_bytes() + extra;
  }
  if (p.groups > 1) r.name = "one convolution per group";
  const double transfer = transfer_seconds(r.bytes, d);
  r.seconds = std::max(product_seconds, transfer) +
              (p.kernel[0] > 1 ? taps : 1) * static_cast<double>(p.groups) * kStepSeconds;
  return r;
}

}  // namespace mlx_conv3d
