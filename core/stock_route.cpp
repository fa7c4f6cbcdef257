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

/// Whether the depth axis takes no part: stock runs the problem in two dimensions.
bool is_flat(const ConvProblem& p) { return p.extent(0) == 1 && p.kernel[0] == 1 && !p.padded(kDepth); }

/// Whether stock's kernels take the channels as they are; in three dimensions it pads them otherwise.
bool whole_channels(const ConvProblem& p) {
  return p.group_in() % 16 == 0 && (p.group_out() <= 16 || p.group_out() % 16 == 0);
}

/// Stock splits a convolution into one 2-D convolution per depth tap (MLX PR #3785).
bool stock_splits(const ConvProblem& p) {
  const bool depth_padding = p.padded(kDepth) && p.pad_mode[kDepth] == PadMode::zeros;
  return p.batch == 1 && p.groups == 1 && !depth_padding && p.stride[0] == 1 && p.dilation[0] == 1 &&
         !p.input_dilated() && p.kernel[0] <= 7 && whole_channels(p);
}

/// Whether those take stock's Winograd F(6x6, 3x3).
bool stock_winograd(const ConvProblem& p) {
  const auto spatial = [&](const Size3& v, int64_t value) { return v[1] == value && v[2] == value; };
  return spatial(p.kernel, 3) && spatial(p.stride, 1) && spatial(p.dilation, 1) && !p.flip &&
         p.in_channels % 32 == 0 && p.out_channels % 32 == 0 &&
         p.output(0) * p.extent(1) * p.extent(2) >= 4096 && p.in_channels + p.out_channels >= 256;
}

/// Whether stock takes the phases of a dilated input apart (MLX PR #4343), each a product of one tap.
bool stock_phases(const ConvProblem& p) {
  constexpr Size3 ones{1, 1, 1}, twos{2, 2, 2};
  return p.groups == 1 && p.flip && p.input_dilation == twos && p.kernel == twos && p.stride == ones &&
         p.dilation == ones && p.pad_lo == ones && p.pad_hi == ones;
}

/// FLOPs of the implicit GEMM and the share of the peak that it reaches: channels in slabs of 16, positions
/// in blocks of 32 or 64, outputs of 8 (at most 16 of them), 32 or 64.
struct ImplicitGemm {
  double flops, share;
};
ImplicitGemm implicit_gemm(const ConvProblem& p, const Device& d) {
  const bool padded = !is_flat(p) && !whole_channels(p);
  const int64_t channels = is_flat(p) ? p.group_in() : round_up(p.group_in(), 16);
  const int64_t outs = padded ? round_up(p.group_out(), 16) : p.group_out();
  const int64_t rows = p.out_positions() >= 8192 && channels >= 64 ? 64 : 32;
  const int64_t cols = outs <= 16 ? 8 : rows == 64 || outs >= 64 ? 64 : 32;
  const int64_t blocks = divide_up(p.out_positions(), rows) * divide_up(outs, cols) * p.groups;
  const int64_t item = item_size(p.out_type);
  const double share = std::min(kStockImplicitShare, core_share(rows, cols, cols == 8 ? 1 : 2, item, item));
  return {2.0 * static_cast<double>(blocks) * static_cast<double>(rows * cols) *
              static_cast<double>(p.taps() * channels),
          share * busy_share(static_cast<double>(blocks), d)};
}

/// In elements.
struct Sizes {
  double frame, x, outputs;
};

/// Passes before and after the convolutions, in bytes: the epilogue, copies, and the sums of depth taps.
double separate_bytes(const ConvProblem& p, const Sizes& n, double item) {
  // Lead frames, other paddings than zeros and upsampled pixels are copied together first.
  bool copies = p.lead > 0 || p.upsampled();
  for (int axis : {kDepth, kHeight, kWidth}) copies |= p.padded(axis) && p.pad_mode[axis] != PadMode::zeros;
  double bytes = epilogue_bytes(p) + (copies ? 2 * item * n.x : 0);
  if (stock_splits(p)) return bytes + 3 * item * n.outputs * static_cast<double>(p.kernel[0] - 1);
  if (is_flat(p)) return bytes;
  if (p.groups > 1) bytes += 2 * item * (n.x + n.outputs);
  if (!p.input_dilated() && !whole_channels(p)) {
    bytes += item * n.x *
             (1 + static_cast<double>(round_up(p.group_in(), 16)) / std::max(1.0, 1.0 * p.group_in()));
  }
  return bytes;
}

StockRoute winograd_route(const ConvProblem& p, const Device& d, const Sizes& n, double item, double peak) {
  const double taps = static_cast<double>(p.kernel[0]), inputs = n.frame * static_cast<double>(p.output(0));
  const double tiles =
      static_cast<double>(p.output(0) * divide_up(p.output(1), 6) * divide_up(p.output(2), 6));
  const double tile_in = 64 * tiles * p.in_channels * item, tile_out = 64 * tiles * p.out_channels * item;
  StockRoute r;
  r.name = "one 2-D Winograd F(6, 3) per depth tap";
  r.flops = 2 * 64 * tiles * p.in_channels * p.out_channels * taps;
  const double weight = item * p.in_channels * p.out_channels, weights = 64 * weight;
  r.bytes =
      taps * (2 * item * inputs + 2 * tile_in + 2 * tile_out + 9 * weight + 2 * weights + item * n.outputs) +
      separate_bytes(p, n, item);
  r.seconds = seconds(r.flops / (peak * kStockProductShare), r.bytes, d);
  r.workspace = static_cast<int64_t>(taps * (item * inputs + tile_in + tile_out + weights) +
                                     item * n.outputs * (taps - 1));
  return r;
}

/// The routes that multiply with one matrix product or several: how many dispatches, and what they move.
StockRoute product_route(const ConvProblem& p, const Device& d, const Sizes& n, double item, double peak) {
  const double taps = static_cast<double>(p.kernel[0]);
  double steps = is_flat(p) ? 1 : static_cast<double>(p.groups), before = 0;
  const ImplicitGemm gemm = implicit_gemm(p, d);
  StockRoute r;
  r.flops = gemm.flops;
  r.bytes = p.operand_bytes();
  if (stock_phases(p)) {
    r.name = "one product per phase of the dilated input";
    r.flops = p.direct_flops() / 8;
    steps = 16;
    before = 2 * item * n.outputs;
  } else if (p.input_dilated()) {
    r.name = "its dilated input unfolded, then one product";
    r.flops = p.direct_flops();
    const double unfolded =
        static_cast<double>(p.out_positions()) * static_cast<double>(p.taps() * p.in_channels);
    before = item * unfolded;
    r.bytes += item * unfolded;
    steps *= 2;
  } else if (stock_splits(p)) {
    r.name = "one 2-D implicit GEMM per depth tap";
    r.bytes += (taps - 1) * item * (n.frame * static_cast<double>(p.output(0)) + n.outputs);
    r.workspace = static_cast<int64_t>(item * n.outputs * (taps - 1));
    steps = 2 * taps - 1;
  } else {
    r.name = p.groups > 1 && !is_flat(p) ? "one convolution per group" : "one implicit GEMM";
  }
  const double separate = separate_bytes(p, n, item) + before;
  r.seconds = std::max(r.flops / (peak * gemm.share), transfer_seconds(r.bytes, d)) +
              transfer_seconds(separate, d) + steps * kStepSeconds;
  r.bytes += separate;
  return r;
}

}  // namespace

StockRoute stock_route(const ConvProblem& p, const Device& d) {
  const double item = static_cast<double>(item_size(p.out_type));
  Sizes n;
  n.frame = static_cast<double>(p.batch * p.extent(1) * p.extent(2)) * static_cast<double>(p.in_channels);
  n.x = n.frame * static_cast<double>(p.extent(0));
  n.outputs = static_cast<double>(p.out_positions()) * static_cast<double>(p.out_channels);
  const double peak = 1e9 * (p.out_type == Dtype::float32 ? d.gflops : std::max(d.gflops, d.matrix_gflops));
  const bool winograd = stock_splits(p) && stock_winograd(p);
  return winograd ? winograd_route(p, d, n, item, peak) : product_route(p, d, n, item, peak);
}

}  // namespace mlx_conv3d
