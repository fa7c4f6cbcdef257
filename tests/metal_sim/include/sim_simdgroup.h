// metal_compute, metal_simdgroup, metal_simdgroup_matrix: barriers, lane exchange and 8x8 matrices.
#pragma once
#include "sim_math.h"

namespace metal {

__MSL_INLINE void threadgroup_barrier(mem_flags flags) { __msl_rt_threadgroup_barrier((uint)flags); }
__MSL_INLINE void simdgroup_barrier(mem_flags flags) { __msl_rt_simdgroup_barrier((uint)flags); }

template <typename T>
__MSL_INLINE T __msl_shuffle(uint op, T v, uint source, uint may_leave = 0) {
  T r;
  __msl_rt_shuffle(op, &v, sizeof(T), source, may_leave, &r);
  return r;
}
template <typename T>
__MSL_INLINE T simd_shuffle(T v, ushort lane) {
  return __msl_shuffle(SIM_OP_SHUFFLE, v, lane);
}
template <typename T>
__MSL_INLINE T simd_broadcast(T v, ushort lane) {
  return __msl_shuffle(SIM_OP_BROADCAST, v, lane);
}
template <typename T>
__MSL_INLINE T simd_broadcast_first(T v) {
  return __msl_shuffle(SIM_OP_BROADCAST_FIRST, v, 0);
}
template <typename T>
__MSL_INLINE T simd_shuffle_xor(T v, ushort mask) {
  return __msl_shuffle(SIM_OP_SHUFFLE, v, __msl_rt_lane() ^ mask);
}
template <typename T>
__MSL_INLINE T simd_shuffle_down(T v, ushort delta) {
  return __msl_shuffle(SIM_OP_SHUFFLE, v, __msl_rt_lane() + delta, 1);
}
template <typename T>
__MSL_INLINE T simd_shuffle_up(T v, ushort delta) {
  return __msl_shuffle(SIM_OP_SHUFFLE, v, __msl_rt_lane() - delta, 1);
}
template <typename T>
__MSL_INLINE T simd_shuffle_rotate_down(T v, ushort delta) {
  return __msl_shuffle(SIM_OP_SHUFFLE, v, (__msl_rt_lane() + delta) & 31);
}
template <typename T>
__MSL_INLINE T simd_shuffle_rotate_up(T v, ushort delta) {
  return __msl_shuffle(SIM_OP_SHUFFLE, v, (__msl_rt_lane() - delta) & 31);
}
template <typename T>
__MSL_INLINE T simd_shuffle_and_fill_down(T v, T fill, ushort delta, ushort modulo = 32) {
  uint lane = __msl_rt_lane(), at = lane % modulo + delta;
  T inside = simd_shuffle_rotate_down(v, delta), outside = simd_shuffle_rotate_down(fill, delta);
  return at < modulo ? inside : outside;
}
template <typename T>
__MSL_INLINE T simd_shuffle_and_fill_up(T v, T fill, ushort delta, ushort modulo = 32) {
  uint lane = __msl_rt_lane(), at = lane % modulo;
  T inside = simd_shuffle_rotate_up(v, delta), outside = simd_shuffle_rotate_up(fill, delta);
  return at >= delta ? inside : outside;
}

#define __MSL_REDUCE(name, expression)                                   \
  template <typename T>                                                  \
  __MSL_INLINE T name(T v) {                                             \
    T lanes[32];                                                         \
    ulong active = __msl_rt_gather(SIM_OP_REDUCE, &v, sizeof(T), lanes); \
    uint first = __builtin_ctzl(active);                                 \
    T r = lanes[first];                                                  \
    for (uint i = first + 1; i < 32; i++)                                \
      if (active >> i & 1) {                                             \
        T x = lanes[i];                                                  \
        r = (T)(expression);                                             \
      }                                                                  \
    return r;                                                            \
  }
__MSL_REDUCE(simd_sum, r + x)
__MSL_REDUCE(simd_product, r* x)
__MSL_REDUCE(simd_max, r < x ? x : r)
__MSL_REDUCE(simd_min, x < r ? x : r)
__MSL_REDUCE(simd_and, r& x)
__MSL_REDUCE(simd_or, r | x)
__MSL_REDUCE(simd_xor, r ^ x)
#undef __MSL_REDUCE
#define __MSL_PREFIX(name, identity, inclusive, op)                      \
  template <typename T>                                                  \
  __MSL_INLINE T name(T v) {                                             \
    T lanes[32];                                                         \
    ulong active = __msl_rt_gather(SIM_OP_REDUCE, &v, sizeof(T), lanes); \
    T r = (T)identity;                                                   \
    uint end = __msl_rt_lane() + inclusive;                              \
    for (uint i = 0; i < end; i++)                                       \
      if (active >> i & 1) r = (T)(r op lanes[i]);                       \
    return r;                                                            \
  }
__MSL_PREFIX(simd_prefix_inclusive_sum, 0, 1, +)
__MSL_PREFIX(simd_prefix_exclusive_sum, 0, 0, +)
__MSL_PREFIX(simd_prefix_inclusive_product, 1, 1, *)
__MSL_PREFIX(simd_prefix_exclusive_product, 1, 0, *)
#undef __MSL_PREFIX

struct simd_vote {
  ulong bits;
  simd_vote(ulong b) : bits(b) {}
  bool all() const { return bits == 0xffffffffUL; }
  bool any() const { return bits != 0; }
  operator ulong() const { return bits; }
};
__MSL_INLINE ulong __msl_vote(bool v, thread ulong& active) {
  uchar mine = v, lanes[32];
  active = __msl_rt_gather(SIM_OP_VOTE, &mine, 1, lanes);
  ulong bits = 0;
  for (uint i = 0; i < 32; i++)
    if ((active >> i & 1) && lanes[i]) bits |= 1UL << i;
  return bits;
}
__MSL_INLINE simd_vote simd_ballot(bool v) {
  ulong active;
  return simd_vote(__msl_vote(v, active));
}
__MSL_INLINE bool simd_any(bool v) {
  ulong active;
  return __msl_vote(v, active) != 0;
}
__MSL_INLINE bool simd_all(bool v) {
  ulong active, bits = __msl_vote(v, active);
  return bits == active;
}

template <typename T, int C, int R = C>
struct simdgroup_matrix {
  static_assert(C == 8 && R == 8, "only 8x8 simdgroup matrices exist");
  static_assert(is_same_v<T, float> || is_same_v<T, half> || is_same_v<T, bfloat>,
                "simdgroup matrices hold float, half or bfloat");
  typedef vec<T, 2> storage_type;
  storage_type __e;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    uint lane = __msl_rt_lane(), r = SIM_MATRIX_ROW(lane), c = SIM_MATRIX_COL(lane);
    __e[0] = r == c ? diagonal : (T)0;
    __e[1] = r == c + 1 ? diagonal : (T)0;
  }
  METAL_FUNC thread storage_type& thread_elements() thread { return __e; }
  METAL_FUNC const thread storage_type& thread_elements() const thread { return __e; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <typename T, int C, int R = C>
METAL_FUNC simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, C, R> m;
  m.__e[0] = v;
  m.__e[1] = v;
  return m;
}
template <typename D, typename A, typename B, typename C>
METAL_FUNC void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>& d,
                                              thread simdgroup_matrix<A, 8, 8>& a,
                                              thread simdgroup_matrix<B, 8, 8>& b,
                                              thread simdgroup_matrix<C, 8, 8>& c) {
  float fa[2] = {(float)a.__e[0], (float)a.__e[1]}, fb[2] = {(float)b.__e[0], (float)b.__e[1]};
  float fc[2] = {(float)c.__e[0], (float)c.__e[1]}, fd[2];
  __msl_rt_multiply(fd, fa, fb, fc);
  d.__e[0] = (D)fd[0];
  d.__e[1] = (D)fd[1];
}
template <typename D, typename A, typename B>
METAL_FUNC void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d, thread simdgroup_matrix<A, 8, 8>& a,
                                   thread simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_matrix<D, 8, 8> zero = make_filled_simdgroup_matrix<D, 8, 8>((D)0);
  simdgroup_multiply_accumulate(d, a, b, zero);
}
template <typename T>
METAL_FUNC simdgroup_matrix<T, 8, 8> operator*(simdgroup_matrix<T, 8, 8> a, simdgroup_matrix<T, 8, 8> b) {
  simdgroup_matrix<T, 8, 8> d;
  simdgroup_multiply(d, a, b);
  return d;
}
#define __MSL_MATRIX_MEMORY(SPACE)                                                                        \
  template <typename T>                                                                                   \
  METAL_FUNC void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& m, const SPACE T* p, ulong stride = 8, \
                                 ulong2 origin = {0, 0}, bool transpose = false) {                        \
    __msl_rt_converge(SIM_OP_MATRIX_LOAD);                                                                \
    uint lane = __msl_rt_lane(), r = SIM_MATRIX_ROW(lane), c = SIM_MATRIX_COL(lane);                      \
    p += origin.y * stride + origin.x;                                                                    \
    for (uint k = 0; k < 2; k++) m.__e[k] = transpose ? p[(c + k) * stride + r] : p[r * stride + c + k];  \
  }                                                                                                       \
  template <typename T>                                                                                   \
  METAL_FUNC void simdgroup_store(simdgroup_matrix<T, 8, 8> m, SPACE T* p, ulong stride = 8,              \
                                  ulong2 origin = {0, 0}, bool transpose = false) {                       \
    __msl_rt_converge(SIM_OP_MATRIX_STORE);                                                               \
    uint lane = __msl_rt_lane(), r = SIM_MATRIX_ROW(lane), c = SIM_MATRIX_COL(lane);                      \
    p += origin.y * stride + origin.x;                                                                    \
    for (uint k = 0; k < 2; k++) p[transpose ? (c + k) * stride + r : r * stride + c + k] = m.__e[k];     \
  }
__MSL_MATRIX_MEMORY(device)
__MSL_MATRIX_MEMORY(threadgroup)
#undef __MSL_MATRIX_MEMORY

}  // namespace metal
