#pragma once

// A threadgroup's BM x BN block of a product, from operands staged in threadgroup memory: 4 simdgroups, two by two
// (or, for few columns, one above the other), each with a part of the sums in registers as 8x8 matrices.

#include "params.h"

constexpr constant int kSimdgroups = 4, kThreads = 32 * kSimdgroups;
constexpr constant int kDepth = MLX_CONV3D_GEMM_DEPTH;
/// Rows of staged operands are four floats apart from a power of two, so that their columns lie in different banks.
constexpr constant int kSkew = 4;

/// Blocked: sums of at most kBlockedSteps steps join totals, which keeps fp32 results within 3e-6 of exact ones where one
/// running sum of 768 products would be 4e-6 off. It takes as many registers again; 16-bit results do without.
constexpr constant int kBlockedSteps = 12;

/// Across: simdgroups side by side.
template <int BM, int BN, bool Blocked, int Across = 2>
struct Block {
  static constexpr constant int part_rows = BM * Across / kSimdgroups, part_cols = BN / Across;
  static constexpr constant int rows = part_rows / 8, cols = part_cols / 8;
  simdgroup_matrix<float, 8, 8> sums[rows][cols];
  simdgroup_matrix<float, 8, 8> totals[Blocked ? rows : 1][Blocked ? cols : 1];

  METAL_FUNC void clear() thread {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
      for (int j = 0; j < cols; ++j) {
        sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        if (Blocked) totals[Blocked ? i : 0][Blocked ? j : 0] = sums[i][j];
      }
    }
  }

  METAL_FUNC void collect() thread {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
      for (int j = 0; j < cols; ++j) {
        totals[Blocked ? i : 0][Blocked ? j : 0].thread_elements() += sums[i][j].thread_elements();
        sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
      }
    }
  }

  /// This lane's two sums of matrix (i, j): see matrix_row, matrix_col.
  METAL_FUNC float2 result(int i, int j) thread {
    return Blocked ? totals[Blocked ? i : 0][Blocked ? j : 0].thread_elements() : sums[i][j].thread_elements();
  }

  /// a[row][k] times b[k][col].
  METAL_FUNC void multiply(const threadgroup float* a, int lda, const threadgroup float* b, int ldb,
                           uint simdgroup) thread {
    a += simdgroup / Across * part_rows * lda;
    b += simdgroup % Across * part_cols;
#pragma unroll
    for (int k = 0; k < kDepth; k += 8) {
      simdgroup_matrix<float, 8, 8> left[rows], right[cols];
#pragma unroll
      for (int i = 0; i < rows; ++i) simdgroup_load(left[i], a + i * 8 * lda + k, lda);
#pragma unroll
      for (int j = 0; j < cols; ++j) simdgroup_load(right[j], b + k * ldb + j * 8, ldb);
#pragma unroll
      for (int i = 0; i < rows; ++i) {
#pragma unroll
        for (int j = 0; j < cols; ++j) {
          simdgroup_multiply_accumulate(sums[i][j], left[i], right[j], sums[i][j]);
        }
      }
    }
  }
};

/// Where a lane's two elements of an 8x8 matrix lie: in this row, in this column and the next. Apple documents no
/// order; MLX's matrix products rely on the same one on every family.
METAL_FUNC int matrix_row(uint lane) { return ((lane / 4) & 4) + lane / 2 % 4; }
METAL_FUNC int matrix_col(uint lane) { return ((lane / 4) & 2) * 2 + lane % 2 * 2; }
