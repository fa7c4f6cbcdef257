// Any convolution as a blocked product: rows are output positions, columns the output channels of one group,
// products run over the taps and, within a tap, its channels. Inputs are gathered where the padded, strided,
// dilated input has them, and weights transposed, on their way into threadgroup memory, in fp32. The operands
// of step s + 1 are fetched while step s multiplies; two sets of threadgroup tiles make one barrier per step
// enough. A step of few channels spans several taps. Rows and columns beyond the last repeat it and are not
// stored; products beyond the last are zeros.

#include <metal_stdlib>
using namespace metal;

#include "any_type.h"
#include "epilogue.h"
#include "gemm.h"
#include "input.h"
#include "weight_size.h"

constant bool dense_channels [[function_constant(MLX_CONV3D_DENSE_CHANNELS)]];
constant bool input_dilated [[function_constant(MLX_CONV3D_INPUT_DILATED)]];
constant bool has_sums [[function_constant(MLX_CONV3D_HAS_SUMS)]];

/// Of the pass's output positions.
struct Position {
  int n, d, h, w;
};

METAL_FUNC Position position_of(int row, constant GatherGemm& p) {
  const int line = row / p.count[2], plane = line / p.count[1];
  return {plane / p.count[0], plane % p.count[0], line % p.count[1], row % p.count[2]};
}

METAL_FUNC int64_t output_offset(Position at, constant GatherGemm& p) {
  const int64_t frame = int64_t(at.n) * p.out_size[0] + p.first[0] + at.d * p.step[0];
  const int64_t line = frame * p.out_size[1] + p.first[1] + at.h * p.step[1];
  return (line * p.out_size[2] + p.first[2] + at.w * p.step[2]) * p.out_channels;
}

/// Where position `at` of an axis meets the input at a tap, or -1 for a zero.
METAL_FUNC int axis_source(int at, int tap, int axis, int mode, constant GatherGemm& p) {
  int q = at * p.stride[axis] + tap * p.dilation[axis] - p.pad[axis];
  if (input_dilated) {
    if (q < 0 || q % p.input_dilation[axis] != 0) return -1;
    q /= p.input_dilation[axis];
  }
  return source_index(q, p.input.size[axis], mode);
}

/// The channels of one input pixel; no data for a zero.
struct Pixel {
  const device char* data;
  int64_t channel_stride;

  METAL_FUNC float at(int c) const thread {
    if (data == nullptr) return 0.0f;
    return element(data, dense_channels ? c : c * channel_stride, x_type);
  }
};

/// The pixel that the product's `tap` meets at an output position, from a channel on.
METAL_FUNC Pixel pixel_at(const device char* x, const device char* lead, constant GatherGemm& p, Position at,
                          int tap, int channel) {
  const int line = tap / kernel_w;
  const int d = axis_source(at.d, line / kernel_h, 0, depth_mode, p);
  const int h = axis_source(at.h, line % kernel_h, 1, height_mode, p);
  const int w = axis_source(at.w, tap % kernel_w, 2, width_mode, p);
  if (d < 0 || h < 0 || w < 0) return {nullptr, 0};
  if (has_lead && d < p.input.lead_frames) {
    constant ArrayStrides& s = p.input.lead;
    return {lead + (at.n * s.n + d * s.d + h * s.h + w * s.w + channel * s.c) * item_size(x_type), s.c};
  }
  constant ArrayStrides& s = p.input.x;
  const int64_t frame = at.n * s.n + (d - p.input.lead_frames) * s.d;
  return {x + (frame + h * s.h + w * s.w + channel * s.c) * item_size(x_type), s.c};
}

template <int BM, int BN, bool Blocked, int Across>
[[kernel, max_total_threads_per_threadgroup(128)]] void gather_gemm(
    const device char* x [[buffer(0)]], const device char* lead [[buffer(1), function_constant(has_lead)]],
    const device char* w [[buffer(2)]], device char* y [[buffer(3)]],
    const device float* bias [[buffer(4), function_constant(has_bias)]],
    const device char* residual [[buffer(5), function_constant(has_residual)]],
    const device float* sums [[buffer(6), function_constant(has_sums)]], constant GatherGemm& p [[buffer(7)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  constexpr int quads = kDepth / 4, lines = kThreads / quads;
  constexpr int a_loads = BM / lines, b_loads = (BN + lines - 1) / lines;
  constexpr int lda = kDepth + kSkew, ldb = BN + kSkew;
  threadgroup float a_tiles[2 * BM * lda];
  threadgroup float b_tiles[2 * kDepth * ldb];

  // A thread fetches four products of every lines-th row and column.
  const int quad = thread_index % quads * 4, line = thread_index / quads;
  const bool has_column = BN >= lines || line < BN;
  const int first_row = group.y * BM, first_col = group.x * BN;
  Position position[a_loads];
  int64_t column[b_loads];
#pragma unroll
  for (int i = 0; i < a_loads; ++i)
    position[i] = position_of(min(first_row + line + i * lines, p.rows - 1), p);
#pragma unroll
  for (int i = 0; i < b_loads; ++i) {
    const int o = group.z * outputs + min(first_col + line + i * lines, outputs - 1);
    column[i] = o * p.w.o + p.first_weight;
  }

  Pixel pixel[a_loads];
  int64_t weight = 0;
  int tap = -1;
  float4 a_next[a_loads], b_next[b_loads];
  Block<BM, BN, Blocked, Across> block;
  block.clear();
  const int steps = (p.products + kDepth - 1) / kDepth;
  for (int s = 0; s <= steps; ++s) {
    if (s > 0) {
      threadgroup float* a_tile = a_tiles + (s & 1) * BM * lda;
      threadgroup float* b_tile = b_tiles + (s & 1) * kDepth * ldb;
#pragma unroll
      for (int i = 0; i < a_loads; ++i)
        *(threadgroup float4*)(a_tile + (line + i * lines) * lda + quad) = a_next[i];
#pragma unroll
      for (int i = 0; i < b_loads; ++i) {
        if (!has_column) continue;
#pragma unroll
        for (int j = 0; j < 4; ++j) b_tile[(quad + j) * ldb + line + i * lines] = b_next[i][j];
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (s < steps) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int k = s * kDepth + quad + j;
        const bool exists = k < p.products;
        // Four products are of one tap where the channels come in fours.
        if (exists && (j == 0 || channels % 4 != 0) && k / channels != tap) {
          tap = k / channels;
#pragma unroll
          for (int i = 0; i < a_loads; ++i)
            pixel[i] = pixel_at(x, lead, p, position[i], tap, group.z * channels);
          const int tap_line = tap / kernel_w;
          weight = tap_line / kernel_h * p.w.d + tap_line % kernel_h * p.w.h + tap % kernel_w * p.w.w;
        }
        const int c = k - tap * channels;
#pragma unroll
        for (int i = 0; i < a_loads; ++i) a_next[i][j] = exists ? pixel[i].at(c) : 0.0f;
        const int64_t offset = weight + (dense_channels ? c : c * p.w.c);
#pragma unroll
        for (int i = 0; i < b_loads; ++i) {
          b_next[i][j] = exists && has_column ? element(w, column[i] + offset, w_type) : 0.0f;
        }
      }
    }
    if (s > 0) {
      block.multiply(a_tiles + (s & 1) * BM * lda, lda, b_tiles + (s & 1) * kDepth * ldb, ldb, simdgroup);
      if (Blocked && s % kBlockedSteps == 0) block.collect();
    }
  }
  if (Blocked) block.collect();

  const int own_row = first_row + simdgroup / Across * block.part_rows + matrix_row(lane);
  const int own_col = first_col + simdgroup % Across * block.part_cols + matrix_col(lane);
#pragma unroll
  for (int i = 0; i < block.rows; ++i) {
    const int row = own_row + i * 8;
    if (row >= p.rows) break;
    const int64_t first = output_offset(position_of(row, p), p);
#pragma unroll
    for (int j = 0; j < block.cols; ++j) {
      const float2 result = block.result(i, j);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int col = own_col + j * 8 + e, o = group.z * outputs + col;
        if (col >= outputs) break;
        const int64_t at = first + o;
        const float sum = has_sums ? result[e] + sums[at] : result[e];
        if (y_type == 1) {
          finish(sum, o, at, (device half*)y, bias, (const device half*)residual);
        } else if (y_type == 2) {
          finish(sum, o, at, (device bfloat*)y, bias, (const device bfloat*)residual);
        } else {
          finish(sum, o, at, (device float*)y, bias, (const device float*)residual);
        }
      }
    }
  }
}

#define INSTANTIATE(BM, BN, Blocked, Across, suffix)       \
  template[[host_name("gather_gemm_" #BM "x" #BN suffix)]] \
      [[kernel]] decltype(gather_gemm<BM, BN, Blocked, Across>) gather_gemm<BM, BN, Blocked, Across>;
INSTANTIATE(64, 64, false, 2, "")
INSTANTIATE(64, 32, false, 2, "")
INSTANTIATE(32, 32, false, 2, "")
INSTANTIATE(64, 64, true, 2, "_blocked")
INSTANTIATE(64, 32, true, 2, "_blocked")
INSTANTIATE(32, 32, true, 2, "_blocked")
INSTANTIATE(128, 16, true, 1, "_blocked")
INSTANTIATE(128, 8, true, 1, "_blocked")
