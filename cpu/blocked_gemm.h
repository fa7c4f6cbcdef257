#pragma once

#include <algorithm>

#include "core/integers.h"
#include "cpu/simd/kernels.h"

namespace mlx_conv3d::cpu {

/// c (+)= a times the panel b over `products` terms, at most `depth` of them at a time; for all segments, of
/// which there may be several where one block holds all terms.
inline void blocked_gemm(const Kernels& k, int64_t depth, int64_t products, int64_t rows, int vectors,
                         const float* a, int64_t lda, const float* b, float* c, int64_t ldc, bool accumulate,
                         const Segments& segments = {}) {
  const int64_t ldb = vectors * k.width;
  // One at least: without terms the sums are zero.
  const int64_t pieces = std::max<int64_t>(1, divide_up(products, depth));
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t from = products * piece / pieces, to = products * (piece + 1) / pieces;
    k.gemm(false, rows, vectors, to - from, a + from, lda, b + from * ldb, ldb, c, ldc,
           accumulate || piece > 0, segments);
  }
}

}  // namespace mlx_conv3d::cpu
