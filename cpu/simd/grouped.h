#pragma once

#include "core/grouped_kernels.h"
#include "cpu/simd/convert.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

void stage_blocks(Dtype type, const PixelBlocks& pixels);
void permute_lanes(const int32_t* order, float* data, int64_t vectors);
GroupedFunction grouped_function(int kernel);
int grouped_rotation(int kernel);
GroupedGradientFunction grouped_gradient_function(int kernel);

/// Of::at<I>() of every one of kGroupedKernels.
template <class F, class Of, class Indices = std::make_index_sequence<GroupedKernels::kCount>>
struct KernelTable;
template <class F, class Of, size_t... I>
struct KernelTable<F, Of, std::index_sequence<I...>> {
  static constexpr F at[] = {Of::template at<I>()...};
};

/// out[l] = v[index[l]], where there is an instruction for it.
#if defined(__AVX512F__)
inline constexpr bool kCanPermute = true;
SIMD_INLINE Vec permute(Vec v, IVec index) { return (Vec)_mm512_permutexvar_ps((__m512i)index, (__m512)v); }
#elif defined(__AVX2__)
inline constexpr bool kCanPermute = true;
SIMD_INLINE Vec permute(Vec v, IVec index) {
  return (Vec)_mm256_permutevar8x32_ps((__m256)v, (__m256i)index);
}
#else
inline constexpr bool kCanPermute = false;
SIMD_INLINE Vec permute(Vec v, IVec) { return v; }
#endif

/// The same with any instructions.
SIMD_INLINE Vec permuted(Vec v, IVec index) {
  if constexpr (kCanPermute) return permute(v, index);
  Vec result{};
  for (int l = 0; l < kWidth; ++l) result[l] = v[index[l]];
  return result;
}

/// How the lanes of a vector pick their inputs. Phase: the place in its group of lane 0's output channel.
template <int C, int O, int Phase>
struct Lanes {
  static constexpr int source(int lane) { return (Phase + lane) / O * C; }
  static constexpr int kSpan = source(kWidth - 1);
  static constexpr bool kInOrder = C == 1 && O == 1;

  template <size_t... L>
  SIMD_INLINE IVec sources(std::index_sequence<L...>) {
    return IVec{source(L)...};
  }
  template <size_t... L>
  SIMD_INLINE Vec pick(const float* x, std::index_sequence<L...>) {
    if constexpr (kSpan == 0) {
      return splat(*x);
    } else if constexpr (kInOrder) {
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
  /// Sums to the order of the outputs' channels.
  template <int P>
  SIMD_INLINE void order(Vec*) {}
  /// The input of every lane's group, where `x` is that of lane 0's.
  SIMD_INLINE Vec pick(const float* x) { return pick(x, std::make_index_sequence<kWidth>()); }

  /// Input c of every lane's group, where `x` is the first one of lane 0's: where one vector has them all it
  /// is the same for every input, and mostly aligned.
  struct Input {
    static constexpr bool kPermuted = kCanPermute && C > 1 && kSpan > 0 && kSpan + C <= kWidth;
    int64_t c;
    IVec index;
    explicit Input(int64_t channel) __attribute__((always_inline)) : c(channel), index{} {
      if constexpr (kPermuted) {
        index = sources(std::make_index_sequence<kWidth>()) + static_cast<int32_t>(c);
      }
    }
    Vec operator()(const float* x) const __attribute__((always_inline)) {
      return kPermuted ? permute(load(x), index) : pick(x + c);
    }
  };
};

/// As many inputs as outputs of a group: product c of lane l is with input (l + c) % C of its group, so that
/// one product's inputs are a vector as it lies in memory. The weights' order follows
/// (Kernels::grouped_rotation).
template <int C>
struct RotatedLanes {
  template <int P>
  SIMD_INLINE void order(Vec*) {}
  struct Input {
    int64_t c;
    IVec index;
    explicit Input(int64_t channel) __attribute__((always_inline)) : c(channel) {
      const IVec lane = Lanes<1, 1, 0>().sources(std::make_index_sequence<kWidth>());
      index = (lane & -C) + ((lane + static_cast<int32_t>(c)) & (C - 1));
    }
    Vec operator()(const float* x) const __attribute__((always_inline)) {
      return c == 0 ? load(x) : permute(load(x), index);
    }
  };
};

/// The lanes by which forward kernels run.
template <class L>
struct ForwardLanes;
template <int C, int O, int Phase>
struct ForwardLanes<Lanes<C, O, Phase>> {
  static constexpr bool kPower = (C & (C - 1)) == 0;
  static constexpr int kRotation = C == O && kPower && Lanes<C, O, Phase>::Input::kPermuted ? C : 0;
  using Type = std::conditional_t<kRotation != 0, RotatedLanes<C>, Lanes<C, O, Phase>>;
};

/// The same K floats again and again.
template <int K>
SIMD_INLINE Vec repeat(const float* x) {
  if constexpr (K == 1) {
    return splat(*x);
  } else if constexpr (K == kWidth) {
    return load(x);
#if defined(__AVX512F__)
  } else if constexpr (K == 2) {
    return (Vec)_mm512_broadcastsd_pd(_mm_load_sd((const double*)x));
  } else if constexpr (K == 4) {
    return (Vec)_mm512_broadcast_f32x4(_mm_loadu_ps(x));
  } else {
    return (Vec)_mm512_castpd_ps(_mm512_broadcast_f64x4(_mm256_loadu_pd((const double*)x)));
#elif defined(__AVX2__)
  } else if constexpr (K == 2) {
    return (Vec)_mm256_castpd_ps(_mm256_broadcast_sd((const double*)x));
  } else {
    return (Vec)_mm256_broadcast_ps((const __m128*)x);
#else
  } else {
    return Vec{x[0], x[1], x[0], x[1]};
#endif
  }
}

/// Rows that are woven: kGroups groups of C inputs and O outputs in a vector.
template <int C, int O>
struct Woven {
  static constexpr int kGroups = kWidth / O;
  static constexpr bool kPossible = O < kWidth && kWidth % O == 0 && C > 1;

  struct Input {
    const int64_t c;
    explicit Input(int64_t channel) __attribute__((always_inline)) : c(channel) {}
    Vec operator()(const float* x) const __attribute__((always_inline)) {
      return repeat<kGroups>(x + c * kGroups);
    }
  };
  template <int P>
  SIMD_INLINE void order(Vec* sums) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) sums[p] = ordered(sums[p], std::make_index_sequence<kWidth>());
  }
  template <size_t... L>
  SIMD_INLINE Vec ordered(Vec v, std::index_sequence<L...>) {
    return __builtin_shufflevector(v, v, (L % O * kGroups + L / O)...);
  }
};

/// Any number of inputs, whole vectors of one group's outputs.
struct OneGroup {
  template <int P>
  SIMD_INLINE void order(Vec*) {}
  SIMD_INLINE Vec pick(const float* x) { return splat(*x); }
  struct Input {
    int64_t c;
    explicit Input(int64_t channel) : c(channel) {}
    Vec operator()(const float* x) const __attribute__((always_inline)) { return splat(x[c]); }
  };
};

/// Without the barrier compilers keep every multiple of the step in a register of its own, of which there are
/// too few.
SIMD_INLINE const float* next(const float* x, int64_t step) {
  x += step;
  asm("" : "+r"(x));
  return x;
}

constexpr int common_divisor(int a, int b) { return b == 0 ? a : common_divisor(b, a % b); }

/// Vectors of outputs start at multiples of the width from either end of a set: at these steps in a group.
template <int O>
inline constexpr int kPhaseStep = common_divisor(O, kWidth);

/// f(Lanes of that phase), for the vector that starts at output `phase` of its group.
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

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
