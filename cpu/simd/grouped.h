#pragma once

#include "core/grouped_kernels.h"
#include "cpu/simd/convert.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

GroupedFunction grouped_function(int kernel);
GroupedGradientFunction grouped_gradient_function(int kernel);

/// The kernels whose taps are all known: kDepthwise[i].
template <int KH, int KW>
void grouped_depthwise(const GroupedRows& r);
extern template void grouped_depthwise<3, 3>(const GroupedRows&);
extern template void grouped_depthwise<5, 5>(const GroupedRows&);

/// How the lanes of a vector pick their inputs. Phase: the place in its group of lane 0's output channel.
template <int C, int O, int Phase>
struct Lanes {
  static constexpr int source(int lane) { return (Phase + lane) / O * C; }
  static constexpr int kSpan = source(kWidth - 1);

  template <size_t... L>
  SIMD_INLINE Vec pick(const float* x, std::index_sequence<L...>) {
    if constexpr (kSpan == 0) {
      return splat(*x);
    } else if constexpr (C == 1 && O == 1) {
      return load(x);
    } else if constexpr (kSpan < kWidth) {
      const Vec v = load(x);
      return __builtin_shufflevector(v, v, source(L)...);
    } else if constexpr (kSpan < 2 * kWidth) {
      return __builtin_shufflevector(load(x), load(x + kWidth), source(L)...);
    } else {
      return Vec{x[source(L)]...};
    }
  }
  /// The input of every lane's group, where `x` is that of lane 0's.
  SIMD_INLINE Vec pick(const float* x) { return pick(x, std::make_index_sequence<kWidth>()); }
};

/// Any number of inputs, whole vectors of one group's outputs.
struct OneGroup {
  SIMD_INLINE Vec pick(const float* x) { return splat(*x); }
};

constexpr int common_divisor(int a, int b) { return b == 0 ? a : common_divisor(b, a % b); }

/// Vectors of outputs start at multiples of the width from either end of a set: at these steps in a group.
template <int O>
inline constexpr int kPhaseStep = common_divisor(O, kWidth);

/// f(Lanes of that phase), for the vector that starts at output `out`.
template <int C, int O, int Phase, class F>
SIMD_INLINE void with_phase(int phase, const F& f) {
  // All of a vector in one group: every such phase is the same.
  constexpr int kSame = Phase + kWidth <= O ? 0 : Phase;
  if (phase == Phase) {
    f(Lanes<C, O, kSame>());
    return;
  }
  constexpr int kNext = Phase + kPhaseStep<O>;
  if constexpr (kNext < O) with_phase<C, O, kNext>(phase, f);
}

template <int N>
struct Count {
  static constexpr int value = N;
};

/// f(Count<n>, first) for blocks that cover [0, sets): `Large`, and where they do not fit smaller ones. The
/// last block may begin earlier and compute some sets again.
template <int Large, class F>
SIMD_INLINE void cover(int64_t sets, const F& f) {
  constexpr int kSmall = 4;
  const int64_t large = sets < Large ? 0 : sets / Large + (sets % Large > kSmall ? 1 : 0);
  for (int64_t i = 0; i < large; ++i) f(Count<Large>(), i * Large + Large <= sets ? i * Large : sets - Large);
  int64_t i = large * Large;
  for (; i < sets && sets >= kSmall; i += kSmall) f(Count<kSmall>(), i + kSmall <= sets ? i : sets - kSmall);
  for (; i < sets; ++i) f(Count<1>(), i);
}

/// n vectors of sums, `at` floats from the start of output row `row` and a set apart, through the epilogue.
__attribute__((noinline)) void finish(const GroupedRows& r, int row, int64_t at, const float* sums, int n);

template <int P>
SIMD_INLINE void finish(const GroupedRows& r, int row, int64_t at, const Vec* sums) {
  const bool plain = r.activation == Activation::none && r.residual == nullptr;
  if (plain && at + (P - 1) * r.out_step + kWidth <= r.out_floats) {
    float* out = r.out + row * r.row_step + at;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) store(out + p * r.out_step, sums[p]);
    return;
  }
  float copy[P * kWidth];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) store(copy + p * kWidth, sums[p]);
  finish(r, row, at, copy, P);
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
