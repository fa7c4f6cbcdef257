#pragma once

#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

/// Asks for a cache line that will be read, or written whole.
SIMD_INLINE void fetch_to_read(const char* line) { __builtin_prefetch(line, 0, 2); }
SIMD_INLINE void fetch_to_write(const char* line) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*line));
#else
  __builtin_prefetch(line, 1, 2);
#endif
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
