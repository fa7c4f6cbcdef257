// metal_type_traits and metal_limits.
#pragma once
#include "sim_types.h"

namespace metal {

template <typename T, T v>
struct integral_constant {
  static constexpr constant T value = v;
  using value_type = T;
  using type = integral_constant;
  constexpr operator T() const thread { return v; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;

template <bool B, typename T = void>
struct enable_if {};
template <typename T>
struct enable_if<true, T> {
  using type = T;
};
template <bool B, typename T = void>
using enable_if_t = typename enable_if<B, T>::type;
template <bool B, typename T, typename F>
struct conditional {
  using type = T;
};
template <typename T, typename F>
struct conditional<false, T, F> {
  using type = F;
};
template <bool B, typename T, typename F>
using conditional_t = typename conditional<B, T, F>::type;

template <typename T>
struct remove_cv {
  using type = __remove_cv(T);
};
template <typename T>
using remove_cv_t = __remove_cv(T);
template <typename T>
using remove_const_t = __remove_const(T);
template <typename T>
struct remove_reference {
  using type = __remove_reference_t(T);
};
template <typename T>
using remove_reference_t = __remove_reference_t(T);
template <typename T>
using remove_pointer_t = __remove_pointer(T);
template <typename T>
struct remove_addrspace {
  using type = T;
};
template <typename T>
struct remove_addrspace<thread T> {
  using type = T;
};
template <typename T>
struct remove_addrspace<device T> {
  using type = T;
};
template <typename T>
struct remove_addrspace<threadgroup T> {
  using type = T;
};
template <typename T>
struct remove_addrspace<constant T> {
  using type = T;
};
template <typename T>
using remove_addrspace_t = typename remove_addrspace<T>::type;
template <typename T>
using decay_t = remove_addrspace_t<__remove_cv(__remove_reference_t(T))>;

template <typename T>
struct __msl_is_small_float {
  static constexpr constant bool value = false;
};
template <>
struct __msl_is_small_float<half> {
  static constexpr constant bool value = true;
};
template <>
struct __msl_is_small_float<bfloat> {
  static constexpr constant bool value = true;
};

#define __MSL_TRAIT(name, expression)           \
  template <typename T>                         \
  struct name : bool_constant<(expression)> {}; \
  template <typename T>                         \
  static constexpr constant bool name##_v = name<T>::value;
__MSL_TRAIT(is_integral, __is_integral(T))
__MSL_TRAIT(is_floating_point, __is_floating_point(T) || __msl_is_small_float<__remove_cv(T)>::value)
__MSL_TRAIT(is_arithmetic, __is_arithmetic(T) || __msl_is_small_float<__remove_cv(T)>::value)
__MSL_TRAIT(is_signed, __is_signed(T))
__MSL_TRAIT(is_unsigned, __is_unsigned(T))
__MSL_TRAIT(is_pointer, __is_pointer(T))
__MSL_TRAIT(is_const, __is_const(T))
__MSL_TRAIT(is_class, __is_class(T))
__MSL_TRAIT(is_enum, __is_enum(T))
__MSL_TRAIT(is_trivial, __is_trivial(T))
#undef __MSL_TRAIT

template <typename A, typename B>
struct is_same : bool_constant<__is_same(A, B)> {};
template <typename A, typename B>
static constexpr constant bool is_same_v = __is_same(A, B);
template <typename A, typename B>
struct is_convertible : bool_constant<__is_convertible_to(A, B)> {};
template <typename A, typename B>
static constexpr constant bool is_convertible_v = __is_convertible_to(A, B);
// MSL has no implicit conversion into bfloat from other floating types, nor from bfloat into half.
template <>
inline constexpr constant bool is_convertible_v<float, bfloat> = false;
template <>
inline constexpr constant bool is_convertible_v<half, bfloat> = false;
template <>
inline constexpr constant bool is_convertible_v<bfloat, half> = false;

#define __MSL_UNSIGNED(S, U) \
  template <>                \
  struct __msl_unsigned<S> { \
    using type = U;          \
  };
template <typename T>
struct __msl_unsigned {
  using type = T;
};
__MSL_UNSIGNED(char, uchar)
__MSL_UNSIGNED(short, ushort)
__MSL_UNSIGNED(int, uint)
__MSL_UNSIGNED(long, ulong)
#undef __MSL_UNSIGNED
template <typename T>
using make_unsigned_t = typename __msl_unsigned<T>::type;

template <typename T>
struct numeric_limits {
  static constexpr constant bool is_signed = __is_signed(T);
  static constexpr constant bool is_integer = true;
  static constexpr constant int digits = sizeof(T) * 8 - __is_signed(T);
  static constexpr T max() {
    return __is_signed(T) ? (T)(((ulong)1 << (sizeof(T) * 8 - 1)) - 1) : (T)(~(ulong)0);
  }
  static constexpr T min() { return __is_signed(T) ? (T)(-(long)max() - 1) : (T)0; }
  static constexpr T lowest() { return min(); }
};
#define __MSL_LIMITS(T, D, MAX, MIN, EPSILON)                        \
  template <>                                                        \
  struct numeric_limits<T> {                                         \
    static constexpr constant bool is_signed = true;                 \
    static constexpr constant bool is_integer = false;               \
    static constexpr constant int digits = D;                        \
    static constexpr T max() { return (T)MAX; }                      \
    static constexpr T min() { return (T)MIN; }                      \
    static constexpr T lowest() { return (T) - MAX; }                \
    static constexpr T epsilon() { return (T)EPSILON; }              \
    static constexpr T infinity() { return (T)__builtin_inff(); }    \
    static constexpr T quiet_NaN() { return (T)__builtin_nanf(""); } \
  };
__MSL_LIMITS(float, 24, 0x1.fffffep127f, 0x1p-126f, 0x1p-23f)
__MSL_LIMITS(half, 11, 65504.0f, 0x1p-14f, 0x1p-10f)
__MSL_LIMITS(bfloat, 8, 0x1.fep127f, 0x1p-126f, 0x1p-7f)
#undef __MSL_LIMITS

}  // namespace metal
