// What the rewriter and the generated kernel entries use.
#pragma once
#include "sim_types.h"

// Element type and count of a scalar or vector.
template <typename V>
struct __msl_shape {
  static constexpr constant int n = 1;
  using element = V;
};
template <typename E, int N>
struct __msl_shape<E __attribute__((ext_vector_type(N)))> {
  static constexpr constant int n = N;
  using element = E;
};

template <typename V, typename A>
__MSL_INLINE constexpr void __msl_put(thread V& r, thread int& at, A v) {
  using E = typename __msl_shape<V>::element;
  if constexpr (__msl_shape<A>::n == 1)
    r[at++] = (E)v;
  else
    for (int k = 0; k < __msl_shape<A>::n; k++) r[at++] = (E)v[k];
}
// float4(a, b.xy, c): one scalar is spread over all elements, otherwise the counts add up exactly.
template <typename V, typename... A>
__MSL_INLINE constexpr V __msl_make(A... a) {
  if constexpr (__msl_shape<V>::n == 1) {
    return V(a...);
  } else {
    constexpr int n = (__msl_shape<A>::n + ... + 0);
    static_assert(n == __msl_shape<V>::n || n == 1 || n == 0,
                  "wrong number of elements in a vector constructor");
    V r = (V)(typename __msl_shape<V>::element)0;
    int at = 0;
    (__msl_put<V>(r, at, a), ...);
    if constexpr (n == 1) r = (V)r[0];
    return r;
  }
}

// A copy of a structure that lies in constant memory: clang's implicit copies take it from any space but
// that.
template <typename T>
__MSL_INLINE T __msl_copy(const constant T& from) {
  T to;
  __builtin_memcpy((thread void*)&to, (const thread void*)(ulong)&from, sizeof(T));
  return to;
}
template <typename T>
__MSL_INLINE T __msl_copy(const T& from) {
  return from;
}

template <int I, typename... A>
struct __msl_nth;
template <typename H, typename... A>
struct __msl_nth<0, H, A...> {
  using type = H;
};
template <int I, typename H, typename... A>
struct __msl_nth<I, H, A...> {
  using type = typename __msl_nth<I - 1, A...>::type;
};
template <typename F>
struct __msl_function;
template <typename R, typename... A>
struct __msl_function<R(A...)> {
  template <int I>
  using argument = typename __msl_nth<I, A...>::type;
};

template <typename T>
struct __msl_pointee;
#define __MSL_POINTEE(SPACE)                                                      \
  template <typename T>                                                           \
  struct __msl_pointee<SPACE T*> {                                                \
    static constexpr constant uint size = sizeof(T);                              \
    static __MSL_INLINE SPACE T* at(ulong address) { return (SPACE T*)address; }  \
  };                                                                              \
  template <typename T>                                                           \
  struct __msl_pointee<SPACE T&> {                                                \
    static constexpr constant uint size = sizeof(T);                              \
    static __MSL_INLINE SPACE T& at(ulong address) { return *(SPACE T*)address; } \
  };
__MSL_POINTEE(device)
__MSL_POINTEE(constant)
__MSL_POINTEE(threadgroup)
#undef __MSL_POINTEE

template <typename A>
__MSL_INLINE A __msl_builtin(uint kind) {
  uint v[3];
  __msl_rt_builtin(kind, v);
  using E = typename __msl_shape<A>::element;
  if constexpr (__msl_shape<A>::n == 1) {
    return (A)v[0];
  } else {
    A r;
    for (int i = 0; i < __msl_shape<A>::n; i++) r[i] = (E)v[i];
    return r;
  }
}
