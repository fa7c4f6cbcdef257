// Winograd: the 3x3 weights of every depth tap, or of every depth frequency, to the transform domain, in fp32, laid out
// for winograd_gemm: inputs down, outputs across, both padded with zeros to whole blocks. Some rows of the frequencies at a
// time where all would take too much memory.

#include <metal_stdlib>
using namespace metal;

#include "params.h"
#include "winograd_matrices.h"

constant int first_row [[function_constant(MLX_CONV3D_FIRST_ROW)]];
constant int row_count [[function_constant(MLX_CONV3D_ROWS)]];

/// Of one channel and spatial position: depth tap `tap`, or value `tap` of the 3 taps' F(2, 3).
template <typename T>
METAL_FUNC float along_depth(const device T* from, int tap, constant WinogradWeight& p) {
  if (p.depth_m == 1) return float(from[(p.flip ? p.depth_taps - 1 - tap : tap) * p.w.d]);
  float taps[3], values[4];
#pragma unroll
  for (int i = 0; i < 3; ++i) taps[i] = float(from[(p.flip ? 2 - i : i) * p.w.d]);
  Winograd<2>::weight<1>(taps, values);
  return values[tap];
}

template <typename T, int M>
[[kernel]] void winograd_weight(const device T* w [[buffer(0)]], device float* weights [[buffer(1)]],
                                constant WinogradWeight& p [[buffer(2)]], uint3 at [[thread_position_in_grid]]) {
  constexpr int size = M + 2;
  const int o = at.x, c = at.y, tap = at.z;
  device float* out = weights + (int64_t(tap) * p.channel_pitch + c) * p.out_pitch + o;
  if (o >= p.out_channels || c >= p.channels) {
    for (int i = 0; i < row_count * size; ++i) out[i * p.frequency_stride] = 0.0f;
    return;
  }
  const device T* from = w + (p.first_out + o) * p.w.o + c * p.w.c;
  float columns[size * 3];
#pragma unroll
  for (int j = 0; j < 3; ++j) {
    float values[3];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      values[i] = along_depth(from + (p.flip ? 2 - i : i) * p.w.h + (p.flip ? 2 - j : j) * p.w.w, tap, p);
    }
    Winograd<M>::template weight<3>(values, columns + j);
  }
#pragma unroll
  for (int i = 0; i < size; ++i) {
    const int to = i - first_row;
    if (to < 0 || to >= row_count) continue;
    float row[size];
    Winograd<M>::template weight<1>(columns + i * 3, row);
#pragma unroll
    for (int j = 0; j < size; ++j) out[(to * size + j) * p.frequency_stride] = row[j];
  }
}

#define INSTANTIATE(T, name, M)                           \
  template [[host_name("winograd_weight_f" #M "_" name)]] \
  [[kernel]] decltype(winograd_weight<T, M>) winograd_weight<T, M>;
#define INSTANTIATE_TYPE(T, name) INSTANTIATE(T, name, 2) INSTANTIATE(T, name, 4) INSTANTIATE(T, name, 6)
INSTANTIATE_TYPE(float, "float32")
INSTANTIATE_TYPE(half, "float16")
INSTANTIATE_TYPE(bfloat, "bfloat16")
