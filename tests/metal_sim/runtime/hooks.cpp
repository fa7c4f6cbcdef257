// The calls that -fsanitize=thread and -fsanitize=undefined put into kernels, answered by the simulator.
#include <cstdio>
#include <cstring>

#include "memory.h"

using namespace sim;
#define EXPORT extern "C" __attribute__((visibility("default")))
#define PC relative(__builtin_return_address(0))

static void undefined(const char* what, u32 pc) {
  if (Report* r = report("undefined", pc)) r->message = what;
}

// The compiler takes these for aligned, so another address would fault.
static inline void aligned(void* p, size_t size, bool write, u32 pc) {
  if ((uintptr_t)p % size) {
    undefined("misaligned access", pc);
    give_up();
  }
  touch((uintptr_t)p, size, write, pc);
}
#define ACCESS(n)                                                   \
  EXPORT void __tsan_read##n(void* p) { aligned(p, n, false, PC); } \
  EXPORT void __tsan_write##n(void* p) { aligned(p, n, true, PC); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
#define UNALIGNED(n)                                                                   \
  EXPORT void __tsan_unaligned_read##n(void* p) { touch((uintptr_t)p, n, false, PC); } \
  EXPORT void __tsan_unaligned_write##n(void* p) { touch((uintptr_t)p, n, true, PC); }
UNALIGNED(2)
UNALIGNED(4)
UNALIGNED(8)
UNALIGNED(16)

EXPORT void __tsan_init() {}
EXPORT void __tsan_func_entry(void*) {}
EXPORT void __tsan_func_exit() {}
EXPORT void* __tsan_memcpy(void* to, const void* from, size_t n) {
  touch((uintptr_t)from, n, false, PC);
  touch((uintptr_t)to, n, true, PC);
  return memmove(to, from, n);
}
EXPORT void* __tsan_memmove(void* to, const void* from, size_t n) {
  touch((uintptr_t)from, n, false, PC);
  touch((uintptr_t)to, n, true, PC);
  return memmove(to, from, n);
}
EXPORT void* __tsan_memset(void* to, int value, size_t n) {
  touch((uintptr_t)to, n, true, PC);
  return memset(to, value, n);
}

// Inserted before every shift whose width is not known: clang's OpenCL masks it silently.
EXPORT void __msl_rt_shift(u64 amount, u32 width) {
  if (amount < width) return;
  if (Report* r = report("undefined", PC))
    r->message = "shift by " + std::to_string((long)amount) + " of a " + std::to_string(width) + "-bit value";
}

#define UNDEFINED(name, text) \
  EXPORT void __ubsan_handle_##name(void*, ...) { undefined(text, PC); }
UNDEFINED(out_of_bounds, "index outside the array")
UNDEFINED(add_overflow, "signed integer overflow in +")
UNDEFINED(sub_overflow, "signed integer overflow in -")
UNDEFINED(mul_overflow, "signed integer overflow in *")
UNDEFINED(negate_overflow, "signed integer overflow in unary -")
UNDEFINED(divrem_overflow, "integer division by zero, or overflow in it")
UNDEFINED(float_cast_overflow, "a float does not fit the integer it is converted to")
UNDEFINED(shift_out_of_bounds, "shift by the width or more")
// What follows would not be the program any more.
#define FATAL(name, text)                         \
  EXPORT void __ubsan_handle_##name(void*, ...) { \
    undefined(text, PC);                          \
    give_up();                                    \
  }
FATAL(type_mismatch_v1, "misaligned or null pointer")
FATAL(builtin_unreachable, "unreachable code reached")
FATAL(missing_return, "the end of a function that returns a value")

// Conversions that the compiler's support library may lack.
EXPORT __attribute__((weak)) __bf16 __truncsfbf2(float f) {
  u32 u = __builtin_bit_cast(u32, f);
  bool is_nan = (u & 0x7fffffff) > 0x7f800000;
  return __builtin_bit_cast(__bf16, (uint16_t)(is_nan ? u >> 16 | 64 : (u + 0x7fff + (u >> 16 & 1)) >> 16));
}
EXPORT __attribute__((weak)) __bf16 __truncdfbf2(double d) { return __truncsfbf2((float)d); }
