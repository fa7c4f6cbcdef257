// metal_atomic: relaxed atomics on int, uint and float, carried out by the runtime.
#pragma once
#include "sim_math.h"

namespace metal {

template <typename T>
struct _atomic {
  T __v;
};
template <typename T>
using atomic = _atomic<T>;
typedef _atomic<int> atomic_int;
typedef _atomic<uint> atomic_uint;
typedef _atomic<float> atomic_float;

template <typename T>
struct __msl_atomic_type {
  static_assert(sizeof(T) == 0, "atomics exist on int, uint and float");
};
#define __MSL_ATOMIC_TYPE(T, code)               \
  template <>                                    \
  struct __msl_atomic_type<T> {                  \
    static constexpr constant uint value = code; \
  };
__MSL_ATOMIC_TYPE(int, SIM_TYPE_INT)
__MSL_ATOMIC_TYPE(uint, SIM_TYPE_UINT)
__MSL_ATOMIC_TYPE(float, SIM_TYPE_FLOAT)
#undef __MSL_ATOMIC_TYPE

template <typename T>
__MSL_INLINE T __msl_atomic(uint op, ulong address, T operand, T expected = 0) {
  T result;
  __msl_rt_atomic(op, __msl_atomic_type<T>::value, address, &operand, &expected, &result);
  return result;
}
#define __MSL_FETCH(SPACE, name, code)                                                       \
  template <typename T, typename U>                                                          \
  __MSL_INLINE T atomic_##name##_explicit(volatile SPACE _atomic<T>* p, U v, memory_order) { \
    return __msl_atomic<T>(code, (ulong)p, (T)v);                                            \
  }
#define __MSL_ATOMICS(SPACE)                                                                                \
  template <typename T>                                                                                     \
  __MSL_INLINE T atomic_load_explicit(const volatile SPACE _atomic<T>* p, memory_order) {                   \
    return __msl_atomic<T>(SIM_ATOMIC_LOAD, (ulong)p, (T)0);                                                \
  }                                                                                                         \
  template <typename T, typename U>                                                                         \
  __MSL_INLINE void atomic_store_explicit(volatile SPACE _atomic<T>* p, U v, memory_order) {                \
    __msl_atomic<T>(SIM_ATOMIC_STORE, (ulong)p, (T)v);                                                      \
  }                                                                                                         \
  template <typename T, typename U>                                                                         \
  __MSL_INLINE bool atomic_compare_exchange_weak_explicit(volatile SPACE _atomic<T>* p, thread T* expected, \
                                                          U desired, memory_order, memory_order) {          \
    T before = *expected;                                                                                   \
    *expected = __msl_atomic<T>(SIM_ATOMIC_COMPARE_EXCHANGE, (ulong)p, (T)desired, before);                 \
    return __builtin_memcmp(&before, expected, sizeof(T)) == 0;                                             \
  }                                                                                                         \
  __MSL_FETCH(SPACE, exchange, SIM_ATOMIC_EXCHANGE)                                                         \
  __MSL_FETCH(SPACE, fetch_add, SIM_ATOMIC_ADD)                                                             \
  __MSL_FETCH(SPACE, fetch_sub, SIM_ATOMIC_SUB)                                                             \
  __MSL_FETCH(SPACE, fetch_min, SIM_ATOMIC_MIN)                                                             \
  __MSL_FETCH(SPACE, fetch_max, SIM_ATOMIC_MAX)                                                             \
  __MSL_FETCH(SPACE, fetch_and, SIM_ATOMIC_AND)                                                             \
  __MSL_FETCH(SPACE, fetch_or, SIM_ATOMIC_OR)                                                               \
  __MSL_FETCH(SPACE, fetch_xor, SIM_ATOMIC_XOR)
__MSL_ATOMICS(device)
__MSL_ATOMICS(threadgroup)
#undef __MSL_ATOMICS
#undef __MSL_FETCH

}  // namespace metal
