#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace mlx_conv3d {

enum class Dtype : uint8_t { float32, float16, bfloat16 };
enum class PadMode : uint8_t { zeros, edge, reflect };
enum class Activation : uint8_t { none, relu, silu, gelu, sigmoid, tanh };

/// Frames, rows, columns (D, H, W).
using Size3 = std::array<int64_t, 3>;

inline constexpr int kDepth = 0, kHeight = 1, kWidth = 2;

/// Positions that `size` taps or inputs span, `dilation` apart.
inline constexpr int64_t dilated(int64_t size, int64_t dilation) {
  return size == 0 ? 0 : (size - 1) * dilation + 1;
}

inline constexpr int64_t item_size(Dtype type) { return type == Dtype::float32 ? 4 : 2; }

/// One description of any convolution, always N,D,H,W,C; 1-D and 2-D problems are lifted to it.
/// y = activation(conv(x, w) + bias) + residual, where `lead` frames stand before x in time.
/// A negative padding crops.
struct ConvProblem {
  int64_t batch = 1;
  int64_t in_channels = 1;
  int64_t out_channels = 1;
  int64_t groups = 1;
  Size3 input{1, 1, 1};  ///< of x alone, without the lead frames
  int64_t lead = 0;
  Size3 kernel{1, 1, 1};
  Size3 stride{1, 1, 1};
  Size3 pad_lo{0, 0, 0};
  Size3 pad_hi{0, 0, 0};
  Size3 dilation{1, 1, 1};
  Size3 input_dilation{1, 1, 1};
  Size3 upsample{1, 1, 1};  ///< nearest neighbour: x and its lead frames are read this many times each
  std::array<PadMode, 3> pad_mode{PadMode::zeros, PadMode::zeros, PadMode::zeros};
  bool flip = false;
  Dtype x_type = Dtype::float32;
  Dtype w_type = Dtype::float32;
  Dtype out_type = Dtype::float32;
  bool bias = false;
  bool residual = false;
  Activation activation = Activation::none;
  bool prepared = false;   ///< Winograd's transformed weights are given beside w
  bool per_frame = false;  ///< an output frame's sums do not depend on the number of frames: see plan.h
  bool odd_frame = false;  ///< per_frame: before the first output frame an odd number has been computed

  bool operator==(const ConvProblem&) const = default;

  /// Positions of an axis that are in memory: x with its lead frames.
  int64_t stored(int axis) const { return input[axis] + (axis == kDepth ? lead : 0); }
  /// Length of an axis of the logical input: upsampled, before padding and input dilation.
  int64_t extent(int axis) const { return stored(axis) * upsample[axis]; }
  int64_t output(int axis) const;
  Size3 output() const { return {output(kDepth), output(kHeight), output(kWidth)}; }
  int64_t out_positions() const { return batch * output(0) * output(1) * output(2); }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
  bool empty() const { return out_positions() * out_channels == 0; }
  bool padded(int axis) const { return pad_lo[axis] != 0 || pad_hi[axis] != 0; }
  bool input_dilated() const { return input_dilation != Size3{1, 1, 1}; }
  bool upsampled() const { return upsample != Size3{1, 1, 1}; }

  /// FLOPs of the direct convolution: 2*N*oD*oH*oW*O*(C/groups)*KD*KH*KW.
  double direct_flops() const;
  /// Bytes of x.
  double input_bytes() const;
  /// Bytes of every operand read once and the result written once.
  double operand_bytes() const;

  /// Where position `q` of the padded, dilated or upsampled input axis (0 = first unpadded) is read from:
  /// an index into what is stored, or -1 for a zero.
  int64_t source_index(int axis, int64_t q) const;

  /// Throws std::invalid_argument, naming the argument, when the problem makes no sense.
  void validate() const;
  std::string describe() const;
};

const char* name_of(Dtype type);
const char* name_of(PadMode mode);
const char* name_of(Activation activation);

}  // namespace mlx_conv3d
