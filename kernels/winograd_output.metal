// Winograd, pass 3: the products of one output channel and tile back to M x M outputs, with the epilogue.

#include <metal_stdlib>
using namespace metal;

#include "epilogue.h"
#include "transformed.h"
#include "winograd_matrices.h"

template <typename T, int M>
[[kernel]] void winograd_output(const device float* products [[buffer(0)]], device T* y [[buffer(1)]],
                                const device float* bias [[buffer(2), function_constant(has_bias)]],
                                const device T* residual [[buffer(3), function_constant(has_residual)]],
                                constant WinogradOutput& p [[buffer(4)]], uint3 at [[thread_position_in_grid]]) {
  constexpr int size = M + 2;
  const int tile = at.y, frame = at.z;
  const TransformedInput from{products, p.count};
  const int64_t first_value = p.first + frame % p.planes * p.plane_stride +
                              (int64_t(frame / p.planes) * p.tiles + tile) * p.out_pitch + at.x;
  float columns[M * size];
#pragma unroll
  for (int j = 0; j < size; ++j) {
    float values[size];
#pragma unroll
    for (int i = 0; i < size; ++i) values[i] = from.value(first_value + (i * size + j) * p.frequency_stride);
    Winograd<M>::template output<size>(values, columns + j);
  }
  const int o = p.first_out + at.x;
  const int index = p.first_tile + tile;
  const int first_col = index % p.tile_cols * M, first_row = index / p.tile_cols % p.tile_rows * M;
  const int64_t image = index / p.tile_cols / p.tile_rows;
  const int64_t first = ((image * p.frames + p.first_frame + frame) * p.height + first_row) * p.width + first_col;
#pragma unroll
  for (int i = 0; i < M; ++i) {
    float row[M];
    Winograd<M>::template output<1>(columns + i * size, row);
    if (first_row + i >= p.height) break;
#pragma unroll
    for (int j = 0; j < M; ++j) {
      if (first_col + j >= p.width) break;
      const int64_t offset = (first + int64_t(i) * p.width + j) * p.out_channels + o;
      finish(row[j], o, offset, y, bias, residual);
    }
  }
}

#define INSTANTIATE(T, name, M)                           \
  template [[host_name("winograd_output_f" #M "_" name)]] \
  [[kernel]] decltype(winograd_output<T, M>) winograd_output<T, M>;
#define INSTANTIATE_TYPE(T, name) INSTANTIATE(T, name, 2) INSTANTIATE(T, name, 4) INSTANTIATE(T, name, 6)
INSTANTIATE_TYPE(float, "float32")
INSTANTIATE_TYPE(half, "float16")
INSTANTIATE_TYPE(bfloat, "bfloat16")
