#pragma once

// fp32 numbers as sums of bf16 parts, for a matrix unit.

#include <immintrin.h>

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

/// 32 fp32 numbers.
struct Pair {
  __m512 low, high;
};

SIMD_INLINE Pair widen(__m512i bf16) {
  return {
      _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(bf16)), 16)),
      _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(bf16, 1)), 16))};
}
SIMD_INLINE __m512i narrow(Pair x) { return (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low); }

SIMD_INLINE __m512i larger(__m512i most, __m512 x) {
  return _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
}
SIMD_INLINE __m512i larger(__m512i most, Pair x) { return larger(larger(most, x.low), x.high); }

/// x as a sum of bf16 numbers, the largest first. Three hold all 24 bits of x.
template <int Parts>
SIMD_INLINE void split(Pair x, __m512i* parts) {
#pragma GCC unroll 3
  for (int p = 0; p < Parts; ++p) {
    parts[p] = narrow(x);
    if (p + 1 < Parts) {
      const Pair taken = widen(parts[p]);
      x = {_mm512_sub_ps(x.low, taken.low), _mm512_sub_ps(x.high, taken.high)};
    }
  }
}

/// Of 32 bf16 numbers, the first 16 each followed by one of the other 16.
SIMD_INLINE __m512i interleave(__m512i bf16) {
  const Pair x = widen(bf16);
  return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(x.low), 16), _mm512_castps_si512(x.high));
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
