// metal_math, metal_integer, metal_common, metal_relational, metal_geometric: what kernels here use of them.
// MSL has no erf, expm1 or log1p, so neither has this; nor math on bfloat, which goes through float.
#pragma once
#include "sim_traits.h"

#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_PI_F 0.63661977236758134308f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define __METAL_MAYBE_FAST_MATH__ 1
#define __METAL_FAST_MATH__ 1
#define __METAL_PRECISE_MATH__ 0

namespace metal {
template <typename T>
using uniform = T;

// One overload for float, one for half (computed in float and rounded), one for vectors of either.
#define __MSL_MATH1(name, expression)                     \
  __MSL_INLINE float name(float x) { return expression; } \
  __MSL_INLINE half name(half h) {                        \
    float x = (float)h;                                   \
    return (half)(expression);                            \
  }                                                       \
  template <typename T, int N>                            \
  __MSL_INLINE vec<T, N> name(vec<T, N> x) {              \
    vec<T, N> r;                                          \
    for (int i = 0; i < N; i++) r[i] = name(x[i]);        \
    return r;                                             \
  }
#define __MSL_MATH2(name, expression)                              \
  __MSL_INLINE float name(float x, float y) { return expression; } \
  __MSL_INLINE half name(half g, half h) {                         \
    float x = (float)g, y = (float)h;                              \
    return (half)(expression);                                     \
  }                                                                \
  template <typename T, int N>                                     \
  __MSL_INLINE vec<T, N> name(vec<T, N> x, vec<T, N> y) {          \
    vec<T, N> r;                                                   \
    for (int i = 0; i < N; i++) r[i] = name(x[i], y[i]);           \
    return r;                                                      \
  }
// clang-format off
#define __MSL_ALL_MATH                                                   \
  __MSL_MATH1(fabs, __builtin_fabsf(x))                                  \
  __MSL_MATH1(sqrt, __builtin_sqrtf(x))                                  \
  __MSL_MATH1(rsqrt, 1.0f / __builtin_sqrtf(x))                          \
  __MSL_MATH1(exp, __builtin_expf(x))                                    \
  __MSL_MATH1(exp2, __builtin_exp2f(x))                                  \
  __MSL_MATH1(exp10, __builtin_exp2f(x * 3.32192809488736f))             \
  __MSL_MATH1(log, __builtin_logf(x))                                    \
  __MSL_MATH1(log2, __builtin_log2f(x))                                  \
  __MSL_MATH1(log10, __builtin_log10f(x))                                \
  __MSL_MATH1(sin, __builtin_sinf(x))                                    \
  __MSL_MATH1(cos, __builtin_cosf(x))                                    \
  __MSL_MATH1(tan, __builtin_tanf(x))                                    \
  __MSL_MATH1(asin, __builtin_asinf(x))                                  \
  __MSL_MATH1(acos, __builtin_acosf(x))                                  \
  __MSL_MATH1(atan, __builtin_atanf(x))                                  \
  __MSL_MATH1(sinh, __builtin_sinhf(x))                                  \
  __MSL_MATH1(cosh, __builtin_coshf(x))                                  \
  __MSL_MATH1(tanh, __builtin_tanhf(x))                                  \
  __MSL_MATH1(asinh, __builtin_asinhf(x))                                \
  __MSL_MATH1(acosh, __builtin_acoshf(x))                                \
  __MSL_MATH1(atanh, __builtin_atanhf(x))                                \
  __MSL_MATH1(sinpi, __builtin_sinf(x * M_PI_F))                         \
  __MSL_MATH1(cospi, __builtin_cosf(x * M_PI_F))                         \
  __MSL_MATH1(tanpi, __builtin_tanf(x * M_PI_F))                         \
  __MSL_MATH1(floor, __builtin_floorf(x))                                \
  __MSL_MATH1(ceil, __builtin_ceilf(x))                                  \
  __MSL_MATH1(trunc, __builtin_truncf(x))                                \
  __MSL_MATH1(rint, __builtin_rintf(x))                                  \
  __MSL_MATH1(round, __builtin_roundf(x))                                \
  __MSL_MATH1(fract, x - __builtin_floorf(x))                            \
  __MSL_MATH1(sign, (float)(x > 0) - (float)(x < 0))                     \
  __MSL_MATH1(saturate, __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f)) \
  __MSL_MATH2(atan2, __builtin_atan2f(x, y))                             \
  __MSL_MATH2(pow, __builtin_powf(x, y))                                 \
  __MSL_MATH2(powr, __builtin_powf(x, y))                                \
  __MSL_MATH2(fmod, __builtin_fmodf(x, y))                               \
  __MSL_MATH2(fmax, __builtin_fmaxf(x, y))                               \
  __MSL_MATH2(fmin, __builtin_fminf(x, y))                               \
  __MSL_MATH2(divide, x / y)                                             \
  __MSL_MATH2(copysign, __builtin_copysignf(x, y))                       \
  __MSL_MATH2(nextafter, __builtin_nextafterf(x, y))                     \
  __MSL_MATH2(fdim, __builtin_fdimf(x, y))                               \
  __MSL_MATH2(step, (float)(y >= x))
// clang-format on
__MSL_ALL_MATH
namespace fast {
__MSL_ALL_MATH
}
namespace precise {
__MSL_ALL_MATH
}
#undef __MSL_ALL_MATH
#undef __MSL_MATH1
#undef __MSL_MATH2

__MSL_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
__MSL_INLINE half fma(half a, half b, half c) { return (half)__builtin_fmaf((float)a, (float)b, (float)c); }
template <typename T, int N>
__MSL_INLINE vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r[i] = fma(a[i], b[i], c[i]);
  return r;
}
template <typename T>
__MSL_INLINE T mad(T a, T b, T c) {
  return fma(a, b, c);
}
__MSL_INLINE float fmax3(float x, float y, float z) { return fmax(x, fmax(y, z)); }
__MSL_INLINE float fmin3(float x, float y, float z) { return fmin(x, fmin(y, z)); }
__MSL_INLINE float ldexp(float x, int k) { return __builtin_ldexpf(x, k); }
__MSL_INLINE float frexp(float x, thread int& k) { return __builtin_frexpf(x, &k); }
template <typename T>
__MSL_INLINE T mix(T a, T b, T t) {
  return a + (b - a) * t;
}

// One overload per type, as in MSL: arguments of mixed types are ambiguous there too.
#define __MSL_ORDERED(T)                                           \
  __MSL_INLINE constexpr T min(T a, T b) { return b < a ? b : a; } \
  __MSL_INLINE constexpr T max(T a, T b) { return a < b ? b : a; } \
  __MSL_INLINE constexpr T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); }
__MSL_ORDERED(char)
__MSL_ORDERED(uchar)
__MSL_ORDERED(short)
__MSL_ORDERED(ushort)
__MSL_ORDERED(int)
__MSL_ORDERED(uint)
__MSL_ORDERED(long)
__MSL_ORDERED(ulong)
__MSL_ORDERED(half)
__MSL_ORDERED(float)
#undef __MSL_ORDERED
template <typename T, int N>
__MSL_INLINE vec<T, N> min(vec<T, N> a, vec<T, N> b) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r[i] = b[i] < a[i] ? b[i] : a[i];
  return r;
}
template <typename T, int N>
__MSL_INLINE vec<T, N> max(vec<T, N> a, vec<T, N> b) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r[i] = a[i] < b[i] ? b[i] : a[i];
  return r;
}
template <typename T, int N>
__MSL_INLINE vec<T, N> clamp(vec<T, N> x, vec<T, N> lo, vec<T, N> hi) {
  return min(max(x, lo), hi);
}
#define __MSL_ABS(T) \
  __MSL_INLINE constexpr T abs(T x) { return x < 0 ? (T) - x : x; }
__MSL_ABS(char)
__MSL_ABS(short)
__MSL_ABS(int)
__MSL_ABS(long)
#undef __MSL_ABS
__MSL_INLINE float abs(float x) { return fabs(x); }
__MSL_INLINE half abs(half x) { return fabs(x); }

__MSL_INLINE uint popcount(uint x) { return __builtin_popcount(x); }
__MSL_INLINE uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
__MSL_INLINE uint ctz(uint x) { return x ? __builtin_ctz(x) : 32; }
__MSL_INLINE int mul24(int a, int b) { return a * b; }
__MSL_INLINE int mad24(int a, int b, int c) { return a * b + c; }
__MSL_INLINE int mulhi(int a, int b) { return (int)(((long)a * b) >> 32); }
__MSL_INLINE uint mulhi(uint a, uint b) { return (uint)(((ulong)a * b) >> 32); }

template <typename T>
__MSL_INLINE constexpr T select(T a, T b, bool c) {
  return c ? b : a;
}
template <typename T, typename C, int N>
__MSL_INLINE vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<C, N> c) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) r[i] = c[i] ? b[i] : a[i];
  return r;
}
template <typename C, int N>
__MSL_INLINE bool any(vec<C, N> c) {
  for (int i = 0; i < N; i++)
    if (c[i]) return true;
  return false;
}
template <typename C, int N>
__MSL_INLINE bool all(vec<C, N> c) {
  for (int i = 0; i < N; i++)
    if (!c[i]) return false;
  return true;
}
__MSL_INLINE bool isnan(float x) { return x != x; }
__MSL_INLINE bool isnan(half x) { return x != x; }
__MSL_INLINE bool isinf(float x) { return __builtin_isinf(x); }
__MSL_INLINE bool isfinite(float x) { return __builtin_isfinite(x); }
__MSL_INLINE bool signbit(float x) { return __builtin_signbit(x); }

template <typename T, int N>
__MSL_INLINE T dot(vec<T, N> a, vec<T, N> b) {
  T s = 0;
  for (int i = 0; i < N; i++) s += a[i] * b[i];
  return s;
}
template <typename T, int N>
__MSL_INLINE T length_squared(vec<T, N> a) {
  return dot(a, a);
}
template <typename T, int N>
__MSL_INLINE T length(vec<T, N> a) {
  return sqrt(dot(a, a));
}

}  // namespace metal
