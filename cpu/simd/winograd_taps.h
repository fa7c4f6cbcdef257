#pragma once

#include "cpu/simd/fetch.h"
#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

constexpr int64_t kNoTap = INT64_MIN;  ///< the offset of a tap that a kernel lacks

/// kWidth neighbouring input channels of so many lanes. Offsets, strides and runs are in bytes.
struct TapBlock {
  const int64_t* offsets;  ///< of the taps
  int taps;
  int64_t stride;  ///< from a lane to the next
  const char* from;
  int64_t lanes;
  const char* fetched;  ///< meanwhile: of every tap so many runs, `stride` apart
  int64_t runs, run;
};

/// How weights of a type are read.
struct TapItems {
  int64_t size;
  void (*read)(const TapBlock& block, Vec (*taps)[kWidth]);  ///< to [tap][channel], zeros for taps that lack
  Vec (*gather)(const char* from, int64_t stride, int64_t lanes);  ///< one item of each lane
};
const TapItems& tap_items(Dtype type);

/// So many bytes of one tap of each row, run by run: rows and taps side by side are too many streams for the
/// hardware to fetch ahead. Always inlined: GCC drops calls that only fetch.
SIMD_INLINE void fetch_runs(const char* first, int64_t stride, int64_t rows, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t row = 0; row < rows; ++row, first += stride) {
    for (int64_t i = 0; i < bytes; i += kLine) fetch_to_read(first + i);
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
