#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void gemm_taps(int64_t rows, int vectors, int64_t k, Taps a, int64_t lda, const float* b, float* c,
               int64_t ldc, bool accumulate);

void gemm_narrow(int64_t rows, int outputs, int64_t k, Taps a, int64_t lda, const float* b, int64_t ldb,
                 float* lanes, bool accumulate);
void sum_lanes(float* lanes, int64_t sums);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
