// Lane exchange, simdgroup matrices and atomics: what the MSL headers call.
#include <algorithm>
#include <cstring>

#include "memory.h"
#include "scheduler.h"

using namespace sim;
#define EXPORT extern "C" __attribute__((visibility("default")))
#define PC relative(__builtin_return_address(0))

EXPORT u32 __msl_rt_lane() { return current->lane; }

EXPORT void __msl_rt_simdgroup_barrier(u32 flags) { rendezvous(SIM_OP_BARRIER, PC, nullptr, 0, flags); }

EXPORT void __msl_rt_converge(u32 op) { rendezvous(op, PC, nullptr, 0); }

EXPORT u64 __msl_rt_gather(u32 op, const void* value, u32 size, void* lanes) {
  Simdgroup& s = simdgroups[current->simdgroup];
  u32 half = rendezvous(op, PC, value, size), active = s.active[half];
  for (u32 i = 0; i < kLanes; i++)
    if (active >> i & 1) memcpy((char*)lanes + i * size, s.slots[half][i], size);
  return active;
}

EXPORT void __msl_rt_shuffle(u32 op, const void* value, u32 size, u32 source, u32 may_leave, void* result) {
  Simdgroup& s = simdgroups[current->simdgroup];
  u32 half = rendezvous(op, PC, value, size), active = s.active[half];
  if (op == SIM_OP_BROADCAST_FIRST) source = (u32)__builtin_ctz(active);
  if (source < kLanes && (active >> source & 1)) {
    memcpy(result, s.slots[half][source], size);
    return;
  }
  memset(result, 0xff, size);
  if (may_leave && source >= kLanes) return;
  if (Report* r = report("simdgroup-divergence", PC))
    r->message = "reads lane " + std::to_string((int)source) + ", which is not active";
}

EXPORT void __msl_rt_multiply(float* d, const float* a, const float* b, const float* c) {
  float operands[6] = {a[0], a[1], b[0], b[1], c[0], c[1]};
  Simdgroup& s = simdgroups[current->simdgroup];
  u32 half = rendezvous(SIM_OP_MATRIX_MULTIPLY, PC, operands, sizeof operands), lane = current->lane;
  const float* product = s.product[half] + SIM_MATRIX_ROW(lane) * 8 + SIM_MATRIX_COL(lane);
  d[0] = product[0];
  d[1] = product[1];
}

template <typename T>
static T combine(u32 op, T a, T b) {
  switch (op) {
    case SIM_ATOMIC_ADD:
      return a + b;
    case SIM_ATOMIC_SUB:
      return a - b;
    case SIM_ATOMIC_MIN:
      return std::min(a, b);
    case SIM_ATOMIC_MAX:
      return std::max(a, b);
    default:
      return b;
  }
}
static u32 combine_bits(u32 op, u32 a, u32 b) {
  switch (op) {
    case SIM_ATOMIC_AND:
      return a & b;
    case SIM_ATOMIC_OR:
      return a | b;
    default:
      return a ^ b;
  }
}

EXPORT void __msl_rt_atomic(u32 op, u32 type, u64 address, const void* operand, const void* expected,
                            void* result) {
  u32 pc = PC;
  if (op != SIM_ATOMIC_STORE) touch(address, 4, false, pc, true);
  if (op != SIM_ATOMIC_LOAD) touch(address, 4, true, pc, true);
  counters.atomics++;
  u32 *p = (u32*)address, before = *p, b, after;
  memcpy(&b, operand, 4);
  if (op == SIM_ATOMIC_LOAD)
    after = before;
  else if (op == SIM_ATOMIC_COMPARE_EXCHANGE)
    after = memcmp(&before, expected, 4) == 0 ? b : before;
  else if (op >= SIM_ATOMIC_AND)
    after = combine_bits(op, before, b);
  else if (type == SIM_TYPE_INT)
    after = (u32)combine(op, (int)before, (int)b);
  else if (type == SIM_TYPE_UINT)
    after = combine(op, before, b);
  else
    after =
        __builtin_bit_cast(u32, combine(op, __builtin_bit_cast(float, before), __builtin_bit_cast(float, b)));
  *p = after;
  memcpy(result, &before, 4);
}
