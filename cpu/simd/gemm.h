#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

#if SIMD_REGISTERS == 32
inline constexpr int kPanelVectors = 3;
inline constexpr int kRows[kMaxPanelVectors + 1] = {0, 16, 12, 8};
#else
inline constexpr int kPanelVectors = 2;
inline constexpr int kRows[kMaxPanelVectors + 1] = {0, 8, 6, 0};
#endif
inline constexpr int kMaxRows = 16;

void gemm(bool transposed, int64_t rows, int vectors, int64_t k, const float* a, int64_t lda, const float* b,
          int64_t ldb, float* c, int64_t ldc, bool accumulate, Segments segments);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
