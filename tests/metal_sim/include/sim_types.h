// Scalar and vector types of MSL on top of clang's "C++ for OpenCL", and the calls into the runtime.
#pragma once
#include "sim_ops.h"
#pragma OPENCL EXTENSION cl_khr_fp16 : enable

#define METAL_FUNC inline __attribute__((__always_inline__))
#define __MSL_INLINE inline __attribute__((__always_inline__))
#define __MSL_CONVERGENT extern "C" __attribute__((convergent, noduplicate, nothrow))
#define __MSL_RUNTIME extern "C" __attribute__((nothrow))

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef unsigned long uintptr_t;
typedef long intptr_t;
typedef __bf16 bfloat;

#define __MSL_VECTORS(T)                              \
  typedef T T##2 __attribute__((ext_vector_type(2))); \
  typedef T T##3 __attribute__((ext_vector_type(3))); \
  typedef T T##4 __attribute__((ext_vector_type(4)));
__MSL_VECTORS(char)
__MSL_VECTORS(uchar)
__MSL_VECTORS(short)
__MSL_VECTORS(ushort)
__MSL_VECTORS(int)
__MSL_VECTORS(uint)
__MSL_VECTORS(half)
__MSL_VECTORS(bfloat)
__MSL_VECTORS(float)
// Loads and stores of the four widest of these are rejected: the instrumentation does not watch 32 bytes at
// once.
__MSL_VECTORS(long)
__MSL_VECTORS(ulong)
#undef __MSL_VECTORS

#define __MSL_PACKED(T, A)                                                 \
  typedef T packed_##T##2 __attribute__((ext_vector_type(2), aligned(A))); \
  typedef T packed_##T##4 __attribute__((ext_vector_type(4), aligned(A))); \
  struct packed_##T##3 {                                                   \
    T x, y, z;                                                             \
    packed_##T##3() = default;                                             \
    packed_##T##3(T a, T b, T c) : x(a), y(b), z(c) {}                     \
    packed_##T##3(T##3 v) : x(v.x), y(v.y), z(v.z) {}                      \
    operator T##3() const { return (T##3)(x, y, z); }                      \
  };
__MSL_PACKED(float, 4)
__MSL_PACKED(half, 2)
__MSL_PACKED(int, 4)
__MSL_PACKED(uint, 4)
__MSL_PACKED(short, 2)
__MSL_PACKED(ushort, 2)
#undef __MSL_PACKED

// Implemented in runtime/. `site` of a convergent call is its return address, so a call is never duplicated.
__MSL_CONVERGENT void __msl_rt_threadgroup_barrier(uint flags);
__MSL_CONVERGENT void __msl_rt_simdgroup_barrier(uint flags);
__MSL_CONVERGENT void __msl_rt_converge(uint op);
__MSL_CONVERGENT ulong __msl_rt_gather(uint op, const thread void* value, uint size, thread void* lanes);
__MSL_CONVERGENT void __msl_rt_shuffle(uint op, const thread void* value, uint size, uint source,
                                       uint may_leave, thread void* result);
__MSL_CONVERGENT void __msl_rt_multiply(thread float* d, const thread float* a, const thread float* b,
                                        const thread float* c);
__MSL_RUNTIME uint __msl_rt_lane();
__MSL_RUNTIME ulong __msl_rt_threadgroup_variable(uint site, uint size, uint align);
__MSL_RUNTIME ulong __msl_rt_threadgroup_argument(uint index);
__MSL_RUNTIME ulong __msl_rt_buffer(uint index);
__MSL_RUNTIME void __msl_rt_builtin(uint kind, thread uint* xyz);
__MSL_RUNTIME bool __msl_rt_constant_defined(uint slot);
__MSL_RUNTIME void __msl_rt_set_constant(uint slot, const thread void* value, uint size);
__MSL_RUNTIME void __msl_rt_atomic(uint op, uint type, ulong address, const thread void* operand,
                                   const thread void* expected, thread void* result);

namespace metal {

template <typename T, int N>
using vec = T __attribute__((ext_vector_type(N)));

enum class mem_flags : uint {
  mem_none = 0,
  mem_device = SIM_MEM_DEVICE,
  mem_threadgroup = SIM_MEM_THREADGROUP,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16
};
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((uint)a | (uint)b); }
enum class thread_scope {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device
};
enum memory_order { memory_order_relaxed };

}  // namespace metal

// MSL gives these names globally as well.
using metal::vec;
template <typename T, typename U>
constexpr T as_type(U x) {
  static_assert(sizeof(T) == sizeof(U), "as_type needs types of one size");
  return __builtin_bit_cast(T, x);
}
