#pragma once

// What the host and the kernels share: argument structures and the indices of function constants.
// Strides and offsets are in elements and 64 bits wide; sizes and positions along one axis fit 32.

#ifndef __METAL_VERSION__
#include <cstdint>
namespace mlx_conv3d::metal {
#endif

// Function constants (macros, because Metal's attributes take literals).
#define MLX_CONV3D_HAS_LEAD 0
#define MLX_CONV3D_DEPTH_MODE 1  // how an axis is read: PadMode in core/problem.h + PAD_MODES * (upsampling - 1)
#define MLX_CONV3D_HEIGHT_MODE 2
#define MLX_CONV3D_WIDTH_MODE 3
#define MLX_CONV3D_HAS_BIAS 4
#define MLX_CONV3D_HAS_RESIDUAL 5
#define MLX_CONV3D_ACTIVATION 6  // numbered as Activation in core/problem.h
#define MLX_CONV3D_CHANNELS 7    // input channels per group
#define MLX_CONV3D_OUTPUTS 8     // output channels per group
#define MLX_CONV3D_KERNEL_D 9
#define MLX_CONV3D_KERNEL_H 10
#define MLX_CONV3D_KERNEL_W 11
#define MLX_CONV3D_X_TYPE 12  // types, numbered as Dtype in core/problem.h
#define MLX_CONV3D_W_TYPE 13
#define MLX_CONV3D_Y_TYPE 14
#define MLX_CONV3D_DENSE_CHANNELS 15  // the channels of x, lead and w have stride 1
#define MLX_CONV3D_INPUT_DILATED 16
#define MLX_CONV3D_HAS_SUMS 17  // what earlier steps summed is added
#define MLX_CONV3D_FIRST_ROW 20  // rows of Winograd's (m + 2) x (m + 2) frequencies that a transform makes
#define MLX_CONV3D_ROWS 21

#define MLX_CONV3D_FLOAT24 22  // tiles and products have 24 bits in scratch: see transformed.h

/// A padding mode besides those of PadMode: no position lies outside the input.
#define MLX_CONV3D_UNPADDED 3
#define MLX_CONV3D_PAD_MODES 4

/// Products along K that one step of a matrix multiplication stages in threadgroup memory.
#define MLX_CONV3D_GEMM_DEPTH 16

struct ArrayStrides {
  int64_t n, d, h, w, c;
};

struct WeightStrides {
  int64_t o, d, h, w, c;
};

/// x and the lead frames before it; `size` counts both, upsampled.
struct InputArrays {
  ArrayStrides x, lead;
  int32_t size[3];
  int32_t lead_frames;
};

/// tiles[frequency][frame][tile][channel] from x.
struct WinogradInput {
  InputArrays input;
  int64_t frequency_stride, count;  ///< count: of all values in tiles
  int32_t first_depth;  ///< position of the chunk's first frame; negative in the padding
  int32_t pad_top, pad_left;
  int32_t first_tile, tiles, tile_rows, tile_cols;
  int32_t channels, channel_pitch;
};

/// weights[frequency][tap * channel_pitch + channel][output] from w. With F(2, 3) along depth (depth_m 2) its 4
/// frequencies take the place of the 3 taps.
struct WinogradWeight {
  WeightStrides w;
  int64_t frequency_stride;
  int32_t first_out, out_channels, out_pitch;
  int32_t channels, channel_pitch, depth_taps;
  int32_t flip, depth_m;
};

/// products[frequency][frame * tiles + tile][output] = sum over taps and channels of tiles * weights.
struct WinogradGemm {
  int64_t tiles_frequency_stride, weights_frequency_stride, products_frequency_stride;
  int64_t tiles_count, products_count;  ///< of all values
  int64_t frame_step, tap_step;  ///< in tiles: from one output frame, or one depth tap, to the next
  int32_t first_tiles, first_products;  ///< frequencies of these that meet the first of `weights`
  int32_t rows, tiles;
  int32_t channel_pitch, out_pitch;
  int32_t steps, steps_per_tap;
};

/// The same with F(2, 3) along depth, for pairs of output frames: products[frequency][frame % 2][frame / 2 * tiles +
/// tile][output].
struct WinogradDepthGemm {
  int64_t tiles_frequency_stride, weights_frequency_stride, products_frequency_stride;
  int64_t tiles_count, products_count;  ///< of all values
  int64_t plane_stride;  ///< from the pairs' first frames to their second ones
  int32_t first_tiles, first_products;  ///< frequencies of these that meet the first of `weights`
  int32_t tiles;
  int32_t frames;  ///< transformed input frames
  int32_t channel_pitch, out_pitch;
  int32_t steps;  ///< per depth frequency
};

/// Rows (positions) and columns (output channels) of the block that winograd_frames_gemm computes.
#define MLX_CONV3D_FRAMES_ROWS 24
#define MLX_CONV3D_FRAMES_COLS 64

/// y from x and weights[frequency][channel][output] for 3x1x1 kernels, along depth in groups of frames.
struct WinogradFramesGemm {
  InputArrays input;
  int64_t weights_frequency_stride;
  int32_t pad_front, pad_top, pad_left;
  int32_t positions;               ///< over all images
  int32_t frames, height, width;   ///< of y
  int32_t channels, steps;         ///< steps of MLX_CONV3D_GEMM_DEPTH channels
  int32_t first_out, out_slice, out_pitch, out_channels;
};

/// y[n][frame][row][col][output] from products, whose frame f lies in plane f % planes.
struct WinogradOutput {
  int64_t first;  ///< offset of the products of these outputs
  int64_t frequency_stride, plane_stride, count;  ///< count: of all values in products
  int32_t planes;
  int32_t first_frame, frames, height, width;  ///< of y
  int32_t first_tile, tiles, tile_rows, tile_cols;
  int32_t first_out, out_channels, out_pitch;
};

/// A grouped convolution; the kernel's size and the channels per group are function constants.
struct GroupedConv {
  InputArrays input;
  WeightStrides w;
  int32_t out_size[3];
  int32_t stride[3], dilation[3], pad[3];
  int32_t out_channels;
  int32_t flip;
};

/// A pass of a convolution as a product: rows are output positions first + j * step along each axis, products
/// the pass's taps and their channels. Position j meets input stride * j + dilation * tap - pad. The number
/// of taps and the channels per group are function constants.
struct GatherGemm {
  InputArrays input;
  WeightStrides w;       ///< from one tap of the pass to the next; negative where the kernel is flipped
  int64_t first_weight;  ///< offset of its first tap
  int32_t rows, products;
  int32_t count[3], first[3], step[3];  ///< output positions
  int32_t out_size[3], out_channels;
  int32_t stride[3], dilation[3], pad[3], input_dilation[3];
};

#ifndef __METAL_VERSION__
}  // namespace mlx_conv3d::metal
#endif
