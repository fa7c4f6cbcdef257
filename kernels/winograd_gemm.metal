// Winograd, pass 2: per frequency, tiles (rows x K) times weights (K x outputs), where K runs over the depth taps and
// their channels: the depth sum happens here, in fp32 registers. The operands of step s + 1 are fetched while step s
// multiplies; two sets of threadgroup tiles make one barrier per step enough. Rows and columns are whole blocks: rows
// beyond the last repeat it, and `products` has room for them.

#include <metal_stdlib>
using namespace metal;

#include "gemm.h"
#include "transformed_matrix.h"

template <int BM, int BN, bool Blocked>
[[kernel, max_total_threads_per_threadgroup(128)]] void winograd_gemm(
    const device float* tiles [[buffer(0)]], const device float* weights [[buffer(1)]],
    device float* products [[buffer(2)]], constant WinogradGemm& p [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  constexpr int quads = kDepth / 4;
  constexpr int a_loads = BM * quads / kThreads, b_loads = kDepth * (BN / 4) / kThreads;
  constexpr int lda = kDepth + kSkew, ldb = BN + kSkew;
  threadgroup float a_tiles[2 * BM * lda];
  threadgroup float b_tiles[2 * kDepth * ldb];

  const int first_row = group.y * BM, first_col = group.x * BN;
  const TransformedInput from_tiles{tiles, p.tiles_count};
  const device float* b = weights + group.z * p.weights_frequency_stride + first_col;
  int64_t a_offset[a_loads];
#pragma unroll
  for (int i = 0; i < a_loads; ++i) {
    const int at = thread_index + i * kThreads;
    const int row = min(first_row + at / quads, p.rows - 1);
    a_offset[i] = (row / p.tiles * p.frame_step + row % p.tiles) * p.channel_pitch + at % quads * 4;
  }

  Quad a_next[a_loads];
  float4 b_next[b_loads];
  Block<BM, BN, Blocked> block;
  block.clear();
  int64_t a = (p.first_tiles + int(group.z)) * p.tiles_frequency_stride;
  int left_in_tap = p.steps_per_tap;
  for (int s = 0; s <= p.steps; ++s) {
    if (s > 0) {
      threadgroup float* a_tile = a_tiles + (s & 1) * BM * lda;
      threadgroup float* b_tile = b_tiles + (s & 1) * kDepth * ldb;
#pragma unroll
      for (int i = 0; i < a_loads; ++i) {
        const int at = thread_index + i * kThreads;
        *(threadgroup float4*)(a_tile + at / quads * lda + at % quads * 4) = a_next[i].values();
      }
#pragma unroll
      for (int i = 0; i < b_loads; ++i) {
        const int at = thread_index + i * kThreads;
        *(threadgroup float4*)(b_tile + at / (BN / 4) * ldb + at % (BN / 4) * 4) = b_next[i];
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (s < p.steps) {
#pragma unroll
      for (int i = 0; i < a_loads; ++i) a_next[i] = from_tiles.quad(a + a_offset[i]);
#pragma unroll
      for (int i = 0; i < b_loads; ++i) {
        const int at = thread_index + i * kThreads;
        const device float* from = b + int64_t(at / (BN / 4)) * p.out_pitch + at % (BN / 4) * 4;
        b_next[i] = *(const device float4*)from;
      }
      a += kDepth;
      b += int64_t(kDepth) * p.out_pitch;
      if (--left_in_tap == 0) {
        a += (p.tap_step - 1) * p.channel_pitch;
        left_in_tap = p.steps_per_tap;
      }
    }
    if (s > 0) {
      block.multiply(a_tiles + (s & 1) * BM * lda, lda, b_tiles + (s & 1) * kDepth * ldb, ldb, simdgroup);
      if (Blocked && s % kBlockedSteps == 0) block.collect();
    }
  }
  if (Blocked) block.collect();

  const TransformedOutput to{products, p.products_count};
  const int64_t c = (p.first_products + int(group.z)) * p.products_frequency_stride +
                    (first_row + int64_t(simdgroup / 2) * (BM / 2)) * p.out_pitch + first_col +
                    simdgroup % 2 * (BN / 2);
#pragma unroll
  for (int i = 0; i < BM / 16; ++i) {
#pragma unroll
    for (int j = 0; j < BN / 16; ++j) {
      const int64_t at = c + i * 8 * int64_t(p.out_pitch) + j * 8;
      if (Blocked) {
        store_matrix(block.totals[Blocked ? i : 0][Blocked ? j : 0], to, at, p.out_pitch, lane);
      } else {
        store_matrix(block.sums[i][j], to, at, p.out_pitch, lane);
      }
    }
  }
}

#define INSTANTIATE(BM, BN, Blocked, suffix)                    \
  template [[host_name("winograd_gemm_" #BM "x" #BN suffix)]]   \
  [[kernel]] decltype(winograd_gemm<BM, BN, Blocked>) winograd_gemm<BM, BN, Blocked>;
INSTANTIATE(32, 32, false, "")
INSTANTIATE(32, 64, false, "")
INSTANTIATE(64, 32, false, "")
INSTANTIATE(64, 64, false, "")
INSTANTIATE(64, 96, false, "")
INSTANTIATE(32, 32, true, "_blocked")
INSTANTIATE(32, 64, true, "_blocked")
INSTANTIATE(64, 32, true, "_blocked")
INSTANTIATE(64, 64, true, "_blocked")
