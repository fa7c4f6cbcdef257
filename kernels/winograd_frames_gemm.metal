// Winograd along depth, of 3x1x1 kernels with 16-bit results, in one pass behind the weights': a threadgroup has kRows
// positions of a group of M output frames and kCols output channels, a simdgroup the product of one frequency. Inputs
// are transformed on their way into threadgroup memory, the products there on their way to y, so neither is ever in
// device memory. Each weight is one simdgroup's own, which loads it as matrices. Positions beyond the last repeat it
// and are not stored.

#include <metal_stdlib>
using namespace metal;

#include "epilogue.h"
#include "gemm.h"
#include "input.h"
#include "winograd_matrices.h"

constexpr constant int kRows = MLX_CONV3D_FRAMES_ROWS, kCols = MLX_CONV3D_FRAMES_COLS;
constexpr constant int kRowMatrices = kRows / 8, kColMatrices = kCols / 8;
constexpr constant int kTilePitch = kDepth + kSkew, kProductPitch = kCols + kSkew;

/// Where a position's channels start in x and in the lead frames; `inside` unless it is padding.
struct Pixel {
  int64_t x, lead;
  bool inside;
};

METAL_FUNC Pixel pixel_at(int index, constant WinogradFramesGemm& p) {
  const int n = index / p.width / p.height;
  const int row = source_index(index / p.width % p.height - p.pad_top, p.input.size[1], height_mode);
  const int col = source_index(index % p.width - p.pad_left, p.input.size[2], width_mode);
  Pixel pixel;
  pixel.x = n * p.input.x.n + row * p.input.x.h + col * p.input.x.w;
  pixel.lead = n * p.input.lead.n + row * p.input.lead.h + col * p.input.lead.w;
  pixel.inside = row >= 0 && col >= 0;
  return pixel;
}

template <typename T, int M>
[[kernel, max_total_threads_per_threadgroup(32 * (M + 2))]] void winograd_frames_gemm(
    const device T* x [[buffer(0)]], const device T* lead [[buffer(1), function_constant(has_lead)]],
    const device float* weights [[buffer(2)]], device T* y [[buffer(3)]],
    const device float* bias [[buffer(4), function_constant(has_bias)]],
    const device T* residual [[buffer(5), function_constant(has_residual)]],
    constant WinogradFramesGemm& p [[buffer(6)]], uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int size = M + 2, threads = 32 * size, values = kRows * kDepth;
  constexpr int loads = (values + threads - 1) / threads, tile = kRows * kTilePitch;
  // The tiles of two steps; at the end 8 rows of the products, which are fewer.
  threadgroup float staged[2 * size * tile];

  const int first_row = group.y * kRows, first_col = group.x * kCols, first_frame = group.z * M;
  int frames[size];
#pragma unroll
  for (int f = 0; f < size; ++f) frames[f] = source_index(first_frame + f - p.pad_front, p.input.size[0], depth_mode);
  Pixel pixels[loads];
#pragma unroll
  for (int i = 0; i < loads; ++i) {
    const int row = (int(thread_index) + i * threads) / kDepth;
    pixels[i] = pixel_at(min(first_row + row, p.positions - 1), p);
  }
  weights += simdgroup * p.weights_frequency_stride + first_col;

  T next[loads][size];
  simdgroup_matrix<float, 8, 8> sums[kRowMatrices][kColMatrices];
#pragma unroll
  for (int i = 0; i < kRowMatrices; ++i) {
#pragma unroll
    for (int j = 0; j < kColMatrices; ++j) sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  }
  for (int s = 0; s <= p.steps; ++s) {
    threadgroup float* to = staged + (s & 1) * size * tile;
    if (s > 0) {
#pragma unroll
      for (int i = 0; i < loads; ++i) {
        const int at = thread_index + i * threads;
        if (at >= values) break;
        float column[size], result[size];
#pragma unroll
        for (int f = 0; f < size; ++f) column[f] = float(next[i][f]);
        Winograd<M>::template input<1>(column, result);
#pragma unroll
        for (int f = 0; f < size; ++f) to[f * tile + at / kDepth * kTilePitch + at % kDepth] = result[f];
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (s < p.steps) {
#pragma unroll
      for (int i = 0; i < loads; ++i) {
        const int c = s * kDepth + (int(thread_index) + i * threads) % kDepth;
#pragma unroll
        for (int f = 0; f < size; ++f) {
          next[i][f] = T(0.0f);
          // Padding, and the channels that round the last step up.
          if (frames[f] < 0 || !pixels[i].inside || c >= p.channels) continue;
          const bool early = has_lead && frames[f] < p.input.lead_frames;
          next[i][f] = early ? lead[pixels[i].lead + frames[f] * p.input.lead.d + c * p.input.lead.c]
                             : x[pixels[i].x + (frames[f] - p.input.lead_frames) * p.input.x.d + c * p.input.x.c];
        }
      }
    }
    if (s > 0) {
      const threadgroup float* from = to + simdgroup * tile;
#pragma unroll
      for (int k = 0; k < kDepth; k += 8) {
        simdgroup_matrix<float, 8, 8> left[kRowMatrices], right[kColMatrices];
#pragma unroll
        for (int j = 0; j < kColMatrices; ++j) {
          simdgroup_load(right[j], weights + k * int64_t(p.out_pitch) + j * 8, p.out_pitch);
        }
#pragma unroll
        for (int i = 0; i < kRowMatrices; ++i) simdgroup_load(left[i], from + i * 8 * kTilePitch + k, kTilePitch);
#pragma unroll
        for (int i = 0; i < kRowMatrices; ++i) {
#pragma unroll
          for (int j = 0; j < kColMatrices; ++j) {
            simdgroup_multiply_accumulate(sums[i][j], left[i], right[j], sums[i][j]);
          }
        }
      }
      weights += int64_t(kDepth) * p.out_pitch;
    }
  }

#pragma unroll
  for (int i = 0; i < kRowMatrices; ++i) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
    for (int j = 0; j < kColMatrices; ++j) {
      simdgroup_store(sums[i][j], staged + simdgroup * 8 * kProductPitch + j * 8, kProductPitch);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int at = thread_index; at < 8 * kCols; at += threads) {
      const int index = first_row + i * 8 + at / kCols, o = first_col + at % kCols;
      if (index >= p.positions || o >= p.out_slice) continue;
      float column[size], result[M];
#pragma unroll
      for (int f = 0; f < size; ++f) column[f] = staged[(f * 8 + at / kCols) * kProductPitch + at % kCols];
      Winograd<M>::template output<1>(column, result);
      const int area = p.height * p.width;
      const int64_t image = index / area;
#pragma unroll
      for (int f = 0; f < M; ++f) {
        if (first_frame + f >= p.frames) break;
        const int64_t position = (image * p.frames + first_frame + f) * area + index % area;
        finish(result[f], p.first_out + o, position * p.out_channels + p.first_out + o, y, bias, residual);
      }
    }
  }
}

#define INSTANTIATE(T, name, M)                                \
  template [[host_name("winograd_frames_gemm_f" #M "_" name)]] \
  [[kernel]] decltype(winograd_frames_gemm<T, M>) winograd_frames_gemm<T, M>;
#define INSTANTIATE_TYPE(T, name) INSTANTIATE(T, name, 2) INSTANTIATE(T, name, 4) INSTANTIATE(T, name, 6)
INSTANTIATE_TYPE(half, "float16")
INSTANTIATE_TYPE(bfloat, "bfloat16")
