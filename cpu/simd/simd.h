#pragma once

// A vector of floats as wide as the instruction set this file is compiled for, written with the compilers'
// vector extension so that one source serves SSE2, AVX2, AVX-512 and NEON. Nothing here or in the files
// that include it may use functions of the standard library: see cpu/CMakeLists.txt.

#include <stdint.h>
#include <string.h>

#include <utility>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "cpu/simd/kernels.h"

#if defined(__AVX512F__)
#define SIMD_WIDTH 16
#define SIMD_REGISTERS 32
#elif defined(__AVX2__)
#define SIMD_WIDTH 8
#define SIMD_REGISTERS 16
#elif defined(__ARM_NEON)
#define SIMD_WIDTH 4
#define SIMD_REGISTERS 32
#else
#define SIMD_WIDTH 4
#define SIMD_REGISTERS 16
#endif

#define SIMD_CAT2(a, b) a##b
#define SIMD_CAT(a, b) SIMD_CAT2(a, b)
#define SIMD_TEXT2(a) #a
#define SIMD_TEXT(a) SIMD_TEXT2(a)
#define SIMD_NAMESPACE SIMD_CAT(isa_, SIMD_ISA)
#define SIMD_INLINE static inline __attribute__((always_inline))

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

inline constexpr int kWidth = SIMD_WIDTH;

typedef float Vec __attribute__((vector_size(SIMD_WIDTH * 4)));
typedef float VecUnaligned __attribute__((vector_size(SIMD_WIDTH * 4), aligned(4), may_alias));
typedef int32_t IVec __attribute__((vector_size(SIMD_WIDTH * 4)));
typedef int32_t IVecUnaligned __attribute__((vector_size(SIMD_WIDTH * 4), aligned(4), may_alias));
typedef uint32_t UVec __attribute__((vector_size(SIMD_WIDTH * 4)));
typedef uint16_t HalfBits __attribute__((vector_size(SIMD_WIDTH * 2)));
typedef uint16_t HalfBitsUnaligned __attribute__((vector_size(SIMD_WIDTH * 2), aligned(2), may_alias));

template <int N>
struct Index {
  static constexpr int value = N;
};
/// Calls f(Index<I>()) to f(Index<N - 1>()).
template <int I, int N, class F>
SIMD_INLINE constexpr void unroll(F&& f) {
  if constexpr (I < N) {
    f(Index<I>{});
    unroll<I + 1, N>(static_cast<F&&>(f));
  }
}

SIMD_INLINE Vec load(const float* p) { return *(const VecUnaligned*)p; }
SIMD_INLINE void store(float* p, Vec v) { *(VecUnaligned*)p = v; }
/// Past the caches, for what is written long before it is read. `p` must be aligned to a vector; fence()
/// makes the stores visible to other threads.
#if defined(__AVX512F__)
SIMD_INLINE void store_streaming(float* p, Vec v) { _mm512_stream_ps(p, (__m512)v); }
SIMD_INLINE void fence() { _mm_sfence(); }
#elif defined(__AVX2__)
SIMD_INLINE void store_streaming(float* p, Vec v) { _mm256_stream_ps(p, (__m256)v); }
SIMD_INLINE void fence() { _mm_sfence(); }
#else
SIMD_INLINE void store_streaming(float* p, Vec v) { store(p, v); }
SIMD_INLINE void fence() {}
#endif
/// Keeps what was loaded in its register: compilers like to load it again for each multiply-add.
#if defined(__x86_64__)
SIMD_INLINE void hold(Vec& v) { asm("" : "+v"(v)); }
#else
SIMD_INLINE void hold(Vec& v) { asm("" : "+w"(v)); }
#endif
/// Keeps an address apart from those that it was computed with.
template <class T>
SIMD_INLINE void hold(T& address) {
  asm("" : "+r"(address));
}
SIMD_INLINE Vec splat(float v) { return v - Vec{}; }
SIMD_INLINE Vec select(IVec mask, Vec a, Vec b) { return (Vec)(((IVec)a & mask) | ((IVec)b & ~mask)); }

// GCC converts whole vectors of AVX-512 and AVX2 in halves.
#if defined(__AVX512F__)
SIMD_INLINE UVec widened(HalfBits h) { return (UVec)_mm512_cvtepu16_epi32((__m256i)h); }
SIMD_INLINE HalfBits narrowed(UVec v) { return (HalfBits)_mm512_cvtepi32_epi16((__m512i)v); }
#elif defined(__AVX2__)
SIMD_INLINE UVec widened(HalfBits h) { return (UVec)_mm256_cvtepu16_epi32((__m128i)h); }
SIMD_INLINE HalfBits narrowed(UVec v) { return __builtin_convertvector(v, HalfBits); }
#else
SIMD_INLINE UVec widened(HalfBits h) { return __builtin_convertvector(h, UVec); }
SIMD_INLINE HalfBits narrowed(UVec v) { return __builtin_convertvector(v, HalfBits); }
#endif

SIMD_INLINE Vec from_bfloat(HalfBits h) { return (Vec)(widened(h) << 16); }

SIMD_INLINE HalfBits to_bfloat(Vec v) {
  const UVec bits = (UVec)v;
  UVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const UVec nan = (UVec)(v != v);
  return narrowed((rounded & ~nan) | (0x7fc0 & nan));
}

#if defined(__AVX512F__)
SIMD_INLINE Vec from_half(HalfBits h) { return (Vec)_mm512_cvtph_ps((__m256i)h); }
SIMD_INLINE HalfBits to_half(Vec v) {
  return (HalfBits)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__AVX2__)
SIMD_INLINE Vec from_half(HalfBits h) { return (Vec)_mm256_cvtph_ps((__m128i)h); }
SIMD_INLINE HalfBits to_half(Vec v) {
  return (HalfBits)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__ARM_NEON)
SIMD_INLINE Vec from_half(HalfBits h) { return (Vec)vcvt_f32_f16((float16x4_t)h); }
SIMD_INLINE HalfBits to_half(Vec v) { return (HalfBits)vcvt_f16_f32((float32x4_t)v); }
#else
SIMD_INLINE Vec from_half(HalfBits h) {
  const UVec wide = widened(h);
  const UVec sign = (wide & 0x8000) << 16;
  UVec magnitude = (wide & 0x7fff) << 13;
  const UVec special = (UVec)((wide & 0x7c00) == 0x7c00);
  // 2^112 rebiases the exponent, and normalises what is subnormal in fp16.
  const Vec scaled = (Vec)magnitude * 0x1p112f;
  magnitude = ((UVec)scaled & ~special) | ((magnitude | 0x7f800000) & special);
  return (Vec)(magnitude | sign);
}
SIMD_INLINE HalfBits to_half(Vec v) {
  const UVec bits = (UVec)v;
  const UVec sign = (bits >> 16) & 0x8000;
  const UVec magnitude = bits & 0x7fffffff;
  const UVec nan = (UVec)(v != v);
  const UVec overflow = (UVec)((IVec)magnitude >= 0x477ff000);
  const UVec subnormal = (UVec)((IVec)magnitude < 0x38800000);
  const UVec normal = ((magnitude - 0x38000000) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 makes the FPU round at fp16's subnormal step.
  const UVec tiny = (UVec)((Vec)magnitude + 0.5f) - 0x3f000000;
  UVec out = (tiny & subnormal) | (normal & ~subnormal);
  out = (0x7c00 & overflow) | (out & ~overflow);
  out = (0x7e00 & nan) | (out & ~nan);
  return narrowed(out | sign);
}
#endif

// Element types are told apart by tag types, so that one template serves all three.
struct Float32 {
  typedef float Item;
  static constexpr Dtype kType = Dtype::float32;
  SIMD_INLINE Vec load(const Item* p) { return SIMD_NAMESPACE::load(p); }
  SIMD_INLINE void store(Item* p, Vec v) { SIMD_NAMESPACE::store(p, v); }
  SIMD_INLINE float scalar(const Item* p) { return *p; }
};
struct Float16 {
  typedef uint16_t Item;
  static constexpr Dtype kType = Dtype::float16;
  SIMD_INLINE Vec load(const Item* p) { return from_half(*(const HalfBitsUnaligned*)p); }
  SIMD_INLINE void store(Item* p, Vec v) { *(HalfBitsUnaligned*)p = to_half(v); }
  SIMD_INLINE float scalar(const Item* p) { return from_half(HalfBits{} + *p)[0]; }
};
struct BFloat16 {
  typedef uint16_t Item;
  static constexpr Dtype kType = Dtype::bfloat16;
  SIMD_INLINE Vec load(const Item* p) { return from_bfloat(*(const HalfBitsUnaligned*)p); }
  SIMD_INLINE void store(Item* p, Vec v) { *(HalfBitsUnaligned*)p = to_bfloat(v); }
  SIMD_INLINE float scalar(const Item* p) { return from_bfloat(HalfBits{} + *p)[0]; }
};

/// The first n items, the other lanes zero; never reads past them.
template <class T>
SIMD_INLINE Vec load_part(const typename T::Item* p, int64_t n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(*p) == sizeof(float)) {
    return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
  }
#endif
  typename T::Item lanes[kWidth] = {};
  memcpy(lanes, p, n * sizeof(lanes[0]));
  return T::load(lanes);
}
template <class T>
SIMD_INLINE void store_part(typename T::Item* p, Vec v, int64_t n) {
  typename T::Item lanes[kWidth];
  T::store(lanes, v);
  memcpy(p, lanes, n * sizeof(lanes[0]));
}

/// n <= kWidth items that lie `stride` apart, the other lanes zero.
template <class T>
SIMD_INLINE Vec gather(const typename T::Item* p, int64_t stride, int64_t n) {
  if (stride == 1) return n >= kWidth ? T::load(p) : load_part<T>(p, n);
  typename T::Item lanes[kWidth] = {};
  for (int64_t l = 0; l < n; ++l) lanes[l] = p[l * stride];
  return T::load(lanes);
}

template <int Step, size_t... Lane>
SIMD_INLINE void swap_blocks(Vec& a, Vec& b, std::index_sequence<Lane...>) {
  const Vec low = __builtin_shufflevector(a, b, (Lane & Step ? kWidth + Lane - Step : Lane)...);
  const Vec high = __builtin_shufflevector(a, b, (Lane & Step ? kWidth + Lane : Lane + Step)...);
  a = low;
  b = high;
}
template <int Step>
SIMD_INLINE void transpose_stage(Vec* rows) {
  if constexpr (Step < kWidth) {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) {
      if ((i & Step) == 0) swap_blocks<Step>(rows[i], rows[i + Step], std::make_index_sequence<kWidth>());
    }
    transpose_stage<Step * 2>(rows);
  }
}
/// Rows become columns, in place, for kWidth rows.
SIMD_INLINE void transpose(Vec* rows) { transpose_stage<1>(rows); }

/// A block of kWidth x kWidth items as columns: out[j] lane i is p[i * row_stride + j], for i < rows, else
/// zero.
template <class T>
SIMD_INLINE void load_transposed(const typename T::Item* p, int64_t row_stride, int64_t rows, Vec* out) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) out[i] = i < rows ? T::load(p + i * row_stride) : Vec{};
  transpose(out);
}

/// exp(x) to about 1 ulp by Cody-Waite reduction and a degree-6 polynomial (Cephes expf's scheme).
SIMD_INLINE Vec exp(Vec x) {
  const Vec high = splat(88.3762626647949f), low = splat(-87.3365478515625f);
  const Vec clamped = select(x > high, high, select(x < low, low, x));
  const Vec scaled = clamped * 1.44269504088896341f;
  const IVec n = __builtin_convertvector(scaled + select(scaled < 0.0f, splat(-0.5f), splat(0.5f)), IVec);
  const Vec whole = __builtin_convertvector(n, Vec);
  const Vec r = (clamped - whole * 0.693359375f) - whole * -2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Vec result = p * (Vec)((n + 127) << 23);
  return select(x != x, x, result);
}

/// tanh(x) to about 3 ulp. Near zero, where 1 - 2/(exp(2x) + 1) would cancel, x + x^3 P(x^2) with P fitted
/// for the least relative error on [0, 0.625].
SIMD_INLINE Vec tanh(Vec x) {
  const Vec square = x * x;
  Vec p = square * -5.704963114e-3f + 2.063906379e-2f;
  p = p * square - 5.373970792e-2f;
  p = p * square + 1.333144158e-1f;
  p = p * square - 3.333328068e-1f;
  return select(square < 0.390625f, x + x * (square * p), 1.0f - 2.0f / (exp(x + x) + 1.0f));
}

/// x Phi(x), the exact GELU, as max(x, 0) - |x|/2 erfc(|x|/sqrt(2)): nothing cancels below zero. log(erfc) is
/// |x| P(|x|), P fitted for its least error on [0, 6] (4e-8); beyond, what it ends at is nothing beside x.
SIMD_INLINE Vec gelu(Vec x) {
  const Vec size = select(x < 0.0f, -x, x), t = select(size > 10.0f, splat(10.0f), size);
  // Even and odd powers side by side, so that each chain is half as long.
  const Vec square = t * t;
  Vec even = square * 1.53370372e-9f + 9.9337683e-7f, odd = square * -5.86297837e-8f - 9.73369333e-6f;
  even = even * square + 5.91109274e-5f;
  odd = odd * square - 2.01690375e-4f;
  even = even * square - 2.19070034e-6f;
  odd = odd * square + 4.83398652e-3f;
  even = even * square - 3.63701396e-2f;
  odd = odd * square - 3.18299055e-1f;
  even = even * square - 7.97885716e-1f;
  return select(x < 0.0f, Vec{}, x) - 0.5f * t * exp(t * (odd * t + even));
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
