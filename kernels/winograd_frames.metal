// Winograd along depth, of 3x1x1 kernels: groups of M output frames, whose M + 2 values along depth are the
// frequencies and whose tiles are single positions. The three transforms; winograd_gemm multiplies between
// them. Values in the transform domain are fp32. Frames beyond the last of a ragged group are computed and
// not stored.

#include <metal_stdlib>
using namespace metal;

#include "epilogue.h"
#include "input.h"
#include "winograd_matrices.h"

/// tiles[frequency][group, position][channel]: a thread has one channel of one position and group.
template <typename T, int M>
[[kernel]] void winograd_frames_input(const device T* x [[buffer(0)]],
                                      const device T* lead [[buffer(1), function_constant(has_lead)]],
                                      device float* tiles [[buffer(2)]],
                                      constant WinogradInput& p [[buffer(3)]],
                                      uint3 at [[thread_position_in_grid]]) {
  constexpr int size = M + 2;
  const int c = at.x, tile = at.y, group = at.z, index = p.first_tile + tile;
  const int n = index / p.tile_cols / p.tile_rows;
  const int row = source_index(index / p.tile_cols % p.tile_rows - p.pad_top, p.input.size[1], height_mode);
  const int col = source_index(index % p.tile_cols - p.pad_left, p.input.size[2], width_mode);
  float values[size], result[size];
#pragma unroll
  for (int i = 0; i < size; ++i) {
    const int d = source_index(p.first_depth + group * M + i, p.input.size[0], depth_mode);
    // Padding in time, and the channels that round the pitch up.
    const bool zero = d < 0 || c >= p.channels;
    values[i] = 0.0f;
    if (zero) continue;
    const Frame<T> from = frame_at(x, lead, p.input, n, d, c);
    values[i] = from.at(row, col);
  }
  Winograd<M>::template input<1>(values, result);
  device float* out = tiles + (int64_t(group) * p.tiles + tile) * p.channel_pitch + c;
#pragma unroll
  for (int i = 0; i < size; ++i) out[i * p.frequency_stride] = result[i];
}

/// weights[frequency][channel][output], both padded with zeros to whole blocks.
template <typename T, int M>
[[kernel]] void winograd_frames_weight(const device T* w [[buffer(0)]], device float* weights [[buffer(1)]],
                                       constant WinogradWeight& p [[buffer(2)]],
                                       uint3 at [[thread_position_in_grid]]) {
  constexpr int size = M + 2;
  const int o = at.x, c = at.y;
  const bool zero = o >= p.out_channels || c >= p.channels;
  const device T* from = w + (p.first_out + o) * p.w.o + c * p.w.c;
  float taps[3], result[size];
#pragma unroll
  for (int i = 0; i < 3; ++i) taps[i] = zero ? 0.0f : float(from[(p.flip ? 2 - i : i) * p.w.d]);
  Winograd<M>::template weight<1>(taps, result);
  device float* out = weights + int64_t(c) * p.out_pitch + o;
#pragma unroll
  for (int i = 0; i < size; ++i) out[i * p.frequency_stride] = result[i];
}

/// M frames of y, with the epilogue: a thread has one output channel of one position and group.
template <typename T, int M>
[[kernel]] void winograd_frames_output(const device float* products [[buffer(0)]], device T* y [[buffer(1)]],
                                       const device float* bias [[buffer(2), function_constant(has_bias)]],
                                       const device T* residual
                                       [[buffer(3), function_constant(has_residual)]],
                                       constant WinogradOutput& p [[buffer(4)]],
                                       uint3 at [[thread_position_in_grid]]) {
  constexpr int size = M + 2;
  const int tile = at.y, group = at.z, index = p.first_tile + tile, positions = p.height * p.width;
  const device float* from = products + (int64_t(group) * p.tiles + tile) * p.out_pitch + at.x;
  float values[size], result[M];
#pragma unroll
  for (int i = 0; i < size; ++i) values[i] = from[i * p.frequency_stride];
  Winograd<M>::template output<1>(values, result);
  const int o = p.first_out + at.x;
  const int64_t image = index / positions;
#pragma unroll
  for (int i = 0; i < M; ++i) {
    const int frame = p.first_frame + group * M + i;
    if (frame >= p.frames) break;
    const int64_t position = (image * p.frames + frame) * positions + index % positions;
    finish(result[i], o, position * p.out_channels + o, y, bias, residual);
  }
}

#define INSTANTIATE(pass, T, name, M)  \
  template [[host_name(                \
      "winograd_frames_" #pass "_f" #M \
      "_" name)]] [[kernel]] decltype(winograd_frames_##pass<T, M>) winograd_frames_##pass<T, M>;
#define INSTANTIATE_PASSES(T, name, M) \
  INSTANTIATE(input, T, name, M) INSTANTIATE(weight, T, name, M) INSTANTIATE(output, T, name, M)
#define INSTANTIATE_TYPE(T, name) \
  INSTANTIATE_PASSES(T, name, 2) INSTANTIATE_PASSES(T, name, 4) INSTANTIATE_PASSES(T, name, 6)
INSTANTIATE_TYPE(float, "float32")
INSTANTIATE_TYPE(half, "float16")
INSTANTIATE_TYPE(bfloat, "bfloat16")
