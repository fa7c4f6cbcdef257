// Winograd, pass 1: every M x M tile's (M + 2)^2 input values of one channel to the transform domain.
// A thread has one channel of one tile of one frame, so that neighbouring lanes read and write neighbouring channels.
// Some rows of the frequencies at a time where all would outgrow the cache: what they do not need is not computed.

#include <metal_stdlib>
using namespace metal;

#include "input.h"
#include "transformed.h"
#include "winograd_matrices.h"

constant int first_row [[function_constant(MLX_CONV3D_FIRST_ROW)]];
constant int row_count [[function_constant(MLX_CONV3D_ROWS)]];

template <typename T, int M>
[[kernel]] void winograd_input(const device T* x [[buffer(0)]],
                               const device T* lead [[buffer(1), function_constant(has_lead)]],
                               device float* tiles [[buffer(2)]], constant WinogradInput& p [[buffer(3)]],
                               uint3 at [[thread_position_in_grid]]) {
  constexpr int size = M + 2;
  const int c = at.x, tile = at.y, frame = at.z;
  const TransformedOutput out{tiles, p.count};
  const int64_t first = (int64_t(frame) * p.tiles + tile) * p.channel_pitch + c;
  const int d = source_index(p.first_depth + frame, p.input.size[0], depth_mode);
  // Padding in time, and the channels that round the pitch up.
  if (d < 0 || c >= p.channels) {
    for (int i = 0; i < row_count * size; ++i) out.store(first + i * p.frequency_stride, 0.0f);
    return;
  }
  const int index = p.first_tile + tile;
  const int tile_col = index % p.tile_cols, tile_row = index / p.tile_cols % p.tile_rows;
  const Frame<T> from = frame_at(x, lead, p.input, index / p.tile_cols / p.tile_rows, d, c);
  int rows[size];
#pragma unroll
  for (int i = 0; i < size; ++i) {
    rows[i] = source_index(tile_row * M + i - p.pad_top, p.input.size[1], height_mode);
  }
  float columns[size * size];
#pragma unroll
  for (int j = 0; j < size; ++j) {
    const int col = source_index(tile_col * M + j - p.pad_left, p.input.size[2], width_mode);
    float values[size];
#pragma unroll
    for (int i = 0; i < size; ++i) values[i] = from.at(rows[i], col);
    Winograd<M>::template input<size>(values, columns + j);
  }
#pragma unroll
  for (int i = 0; i < size; ++i) {
    const int to = i - first_row;
    if (to < 0 || to >= row_count) continue;
    float row[size];
    Winograd<M>::template input<1>(columns + i * size, row);
#pragma unroll
    for (int j = 0; j < size; ++j) out.store(first + (to * size + j) * p.frequency_stride, row[j]);
  }
}

#define INSTANTIATE(T, name, M)                          \
  template [[host_name("winograd_input_f" #M "_" name)]] \
  [[kernel]] decltype(winograd_input<T, M>) winograd_input<T, M>;
#define INSTANTIATE_TYPE(T, name) INSTANTIATE(T, name, 2) INSTANTIATE(T, name, 4) INSTANTIATE(T, name, 6)
INSTANTIATE_TYPE(float, "float32")
INSTANTIATE_TYPE(half, "float16")
INSTANTIATE_TYPE(bfloat, "bfloat16")
