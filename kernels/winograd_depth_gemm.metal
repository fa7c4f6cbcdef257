// Winograd, pass 2, with F(2, 3) along depth as well: per frequency, 4 products of C channels give 2 output frames where
// depth taps summed one by one take 6. From input frames d0 .. d3 of a pair of output frames, while they are staged:
//
//   P0 = (d0 - d2) W0   P1 = (d2 + d1) W1   P2 = (d2 - d1) W2   P3 = (d3 - d1) W3
//   first frame = P1 + P2 + P0              second frame = P1 - P2 + P3
//
// One after the other in the order P1, P2, P0, P3 they need two sets of sums only: P1 and P2, then their sum and
// difference, to which P0 and P3 are added. Staging, blocks and barriers are those of winograd_gemm. What lies beyond the
// last row, or is the other frame of a last pair of one, is computed from frames that there are, and nobody reads it.

#include <metal_stdlib>
using namespace metal;

#include "gemm.h"
#include "transformed_matrix.h"

constexpr constant int kProducts = 4, kPair = 2;

/// Product `phase` is of the input (d[plus] + sign * d[other]) and depth frequency `weights`.
struct Phase {
  int weights, plus, other;
  float sign;
};

METAL_FUNC Phase phase_at(int phase) {
  Phase p;
  p.weights = phase == 0 ? 1 : phase == 1 ? 2 : phase == 2 ? 0 : 3;
  p.plus = phase == 2 ? 0 : phase == 3 ? 3 : 2;
  p.other = phase == 2 ? 2 : 1;
  p.sign = phase == 0 ? 1.0f : -1.0f;
  return p;
}

/// The sums of two frames. Blocked: those of at most kBlockedSteps steps join the frames' totals, for fp32 results.
template <int BM, int BN, bool Blocked>
struct PairBlock {
  static constexpr constant int rows = BM / 16, cols = BN / 16, extra = Blocked ? 2 : 1;
  Block<BM, BN, false> now;
  simdgroup_matrix<float, 8, 8> kept[extra][rows][cols];  ///< the frames' totals; or the set that rests

  METAL_FUNC void clear() thread {
    now.clear();
#pragma unroll
    for (int e = 0; e < extra; ++e) {
#pragma unroll
      for (int i = 0; i < rows; ++i) {
#pragma unroll
        for (int j = 0; j < cols; ++j) kept[e][i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
      }
    }
  }

  /// Adds the sums so far of product `phase` to the frames that they are part of.
  METAL_FUNC void collect(int phase) thread {
    if (!Blocked) return;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
      for (int j = 0; j < cols; ++j) {
        if (phase != 3) kept[0][i][j].thread_elements() += now.sums[i][j].thread_elements();
        if (phase == 1) kept[extra - 1][i][j].thread_elements() -= now.sums[i][j].thread_elements();
        if (phase == 0 || phase == 3) kept[extra - 1][i][j].thread_elements() += now.sums[i][j].thread_elements();
      }
    }
    now.clear();
  }

  /// After the last step of product `phase`.
  METAL_FUNC void finish(int phase) thread {
    if (Blocked) {
      collect(phase);
      return;
    }
    if (phase == 3) return;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
      for (int j = 0; j < cols; ++j) {
        const simdgroup_matrix<float, 8, 8> other = kept[0][i][j];
        kept[0][i][j] = now.sums[i][j];
        now.sums[i][j] = other;
        if (phase == 1) {
          now.sums[i][j].thread_elements() += kept[0][i][j].thread_elements();
          kept[0][i][j].thread_elements() = other.thread_elements() - kept[0][i][j].thread_elements();
        }
      }
    }
  }

  METAL_FUNC void store(TransformedOutput to, int64_t first, int64_t frame_stride, int64_t pitch,
                        uint lane) const thread {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
      for (int j = 0; j < cols; ++j) {
        const int64_t at = first + i * 8 * pitch + j * 8;
        store_matrix(kept[0][i][j], to, at, pitch, lane);
        store_matrix(Blocked ? kept[extra - 1][i][j] : now.sums[i][j], to, at + frame_stride, pitch, lane);
      }
    }
  }
};

template <int BM, int BN, bool Blocked>
[[kernel, max_total_threads_per_threadgroup(128)]] void winograd_depth_gemm(
    const device float* tiles [[buffer(0)]], const device float* weights [[buffer(1)]],
    device float* products [[buffer(2)]], constant WinogradDepthGemm& p [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  constexpr int quads = kDepth / 4;
  constexpr int a_loads = (BM * quads + kThreads - 1) / kThreads, b_loads = kDepth * (BN / 4) / kThreads;
  constexpr int lda = kDepth + kSkew, ldb = BN + kSkew;
  threadgroup float a_tiles[2 * BM * lda];
  threadgroup float b_tiles[2 * kDepth * ldb];

  const int first_row = group.y * BM, first_col = group.x * BN;
  const TransformedInput from_tiles{tiles, p.tiles_count};
  const int64_t first_tile = (p.first_tiles + int(group.z)) * p.tiles_frequency_stride;
  weights += group.z * p.weights_frequency_stride + first_col;

  Quad a_next[a_loads], a_other[a_loads];
  float4 b_next[b_loads];
  int64_t a_offset[a_loads], other_offset[a_loads];
  int64_t a = first_tile;
  const device float* b = weights;
  float sign = 1.0f;
  PairBlock<BM, BN, Blocked> block;
  block.clear();
  const int steps = kProducts * p.steps;
  int phase = 0, left = 0, done = 0;
  for (int s = 0; s <= steps; ++s) {
    if (s > 0) {
      threadgroup float* a_tile = a_tiles + (s & 1) * BM * lda;
      threadgroup float* b_tile = b_tiles + (s & 1) * kDepth * ldb;
#pragma unroll
      for (int i = 0; i < a_loads; ++i) {
        const int at = thread_index + i * kThreads;
        if (BM * quads % kThreads != 0 && at >= BM * quads) break;
        *(threadgroup float4*)(a_tile + at / quads * lda + at % quads * 4) =
            a_next[i].values() + sign * a_other[i].values();
      }
#pragma unroll
      for (int i = 0; i < b_loads; ++i) {
        const int at = thread_index + i * kThreads;
        *(threadgroup float4*)(b_tile + at / (BN / 4) * ldb + at % (BN / 4) * 4) = b_next[i];
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (s < steps) {
      if (left == 0) {
        const Phase next = phase_at(s / p.steps);
        left = p.steps;
        sign = next.sign;
        a = first_tile;
        b = weights + int64_t(next.weights) * p.channel_pitch * p.out_pitch;
#pragma unroll
        for (int i = 0; i < a_loads; ++i) {
          const int at = thread_index + i * kThreads;
          const int row = first_row + at / quads;
          const int frame = row / p.tiles * kPair, tile = row % p.tiles;
          const int64_t plus = min(frame + next.plus, p.frames - 1), other = min(frame + next.other, p.frames - 1);
          a_offset[i] = (plus * p.tiles + tile) * p.channel_pitch + at % quads * 4;
          other_offset[i] = (other * p.tiles + tile) * p.channel_pitch + at % quads * 4;
        }
      }
#pragma unroll
      for (int i = 0; i < a_loads; ++i) {
        if (BM * quads % kThreads != 0 && thread_index + i * kThreads >= BM * quads) break;
        a_next[i] = from_tiles.quad(a + a_offset[i]);
        a_other[i] = from_tiles.quad(a + other_offset[i]);
      }
#pragma unroll
      for (int i = 0; i < b_loads; ++i) {
        const int at = thread_index + i * kThreads;
        const device float* from = b + int64_t(at / (BN / 4)) * p.out_pitch + at % (BN / 4) * 4;
        b_next[i] = *(const device float4*)from;
      }
      a += kDepth;
      b += int64_t(kDepth) * p.out_pitch;
      --left;
    }
    if (s > 0) {
      block.now.multiply(a_tiles + (s & 1) * BM * lda, lda, b_tiles + (s & 1) * kDepth * ldb, ldb, simdgroup);
      if (++done == p.steps) {
        block.finish(phase);
        ++phase;
        done = 0;
      } else if (Blocked && done % kBlockedSteps == 0) {
        block.collect(phase);
      }
    }
  }
  const TransformedOutput to{products, p.products_count};
  block.store(to,
              (p.first_products + int(group.z)) * p.products_frequency_stride +
                  (first_row + int64_t(simdgroup / 2) * (BM / 2)) * p.out_pitch + first_col +
                  simdgroup % 2 * (BN / 2),
              p.plane_stride, p.out_pitch, lane);
}

#define INSTANTIATE(BM, BN, Blocked, suffix)                        \
  template [[host_name("winograd_depth_gemm_" #BM "x" #BN suffix)]] \
  [[kernel]] decltype(winograd_depth_gemm<BM, BN, Blocked>) winograd_depth_gemm<BM, BN, Blocked>;
INSTANTIATE(32, 32, false, "")
INSTANTIATE(32, 64, false, "")
INSTANTIATE(32, 96, false, "")
INSTANTIATE(48, 64, false, "")
INSTANTIATE(32, 32, true, "_blocked")
INSTANTIATE(32, 64, true, "_blocked")
