// Depthwise convolution with a kernel known at compile time: two output rows at a time, so that an input met
// by both is loaded once.

#include "cpu/simd/grouped.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

/// One depth tap: R + KH - 1 input rows.
template <int KH, int KW, int R, int P>
SIMD_INLINE void depth_tap(const float* const* rows, int64_t in, int64_t step, const float* weights,
                           Vec (*sums)[P]) {
  Vec w[KH][KW];
#pragma GCC unroll 5
  for (int kh = 0; kh < KH; ++kh) {
#pragma GCC unroll 5
    for (int kw = 0; kw < KW; ++kw) w[kh][kw] = load(weights + (kh * KW + kw) * kWidth);
  }
#pragma GCC unroll 6
  for (int ih = 0; ih < R + KH - 1; ++ih) {
    if (rows[ih] == nullptr) continue;
    const float* x = rows[ih] + in;
#pragma GCC unroll 12
    for (int t = 0; t < P + KW - 1; ++t, x = next(x, step)) {
      const Vec v = load(x);
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        const int kh = ih - r;
        if (kh < 0 || kh >= KH) continue;
#pragma GCC unroll 5
        for (int kw = 0; kw < KW; ++kw) {
          if (t >= kw && t - kw < P) sums[r][t - kw] += v * w[kh][kw];
        }
      }
    }
  }
}

template <int KH, int KW, int R, int P>
SIMD_INLINE void block(const GroupedRows& g, int64_t v, int64_t set) {
  Vec sums[R][P];
  const Vec start = g.bias ? load(g.bias + v * kWidth) : Vec{};
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sums[r][p] = start;
  }
  const int64_t in = g.vector[v].in + set * g.in_step;
  const float* weights = g.weights + v * g.depth_taps * KH * KW * kWidth;
  for (int64_t kd = 0; kd < g.depth_taps; ++kd) {
    depth_tap<KH, KW, R, P>(g.rows + kd * (R + KH - 1), in, g.in_step, weights + kd * KH * KW * kWidth, sums);
  }
  const int64_t out = g.vector[v].out + set * g.out_step;
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) finish<P>(g, r, out, g.out_step, sums[r]);
}

template <int KH, int KW, int R>
void rows(const GroupedRows& g) {
  constexpr int kLarge = SIMD_REGISTERS == 32 ? 7 : 4;
  for (int64_t v = 0; v < g.vectors; ++v) {
    cover<kLarge>(g.sets, [&](auto count, int64_t set) __attribute__((always_inline)) {
      block<KH, KW, R, decltype(count)::value>(g, v, set);
    });
  }
}

}  // namespace

template <int KH, int KW>
void grouped_depthwise(const GroupedRows& g) {
  if (g.out_rows == 2) {
    rows<KH, KW, 2>(g);
  } else {
    rows<KH, KW, 1>(g);
  }
}
template void grouped_depthwise<3, 3>(const GroupedRows&);
template void grouped_depthwise<5, 5>(const GroupedRows&);

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
