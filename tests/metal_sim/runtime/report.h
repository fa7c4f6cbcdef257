// What a run found (Report) and how much it moved (Site, Counters), printed as JSON at the end.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sim {

using u8 = uint8_t;
using u32 = uint32_t;
using u64 = uint64_t;

// `pc` and `other_pc` are return addresses relative to the kernel library; other_* belongs to the second
// party of a race. `slot` is a buffer index, kThreadgroupSlot, or -1.
struct Report {
  std::string kind, message;
  u32 pc = 0, other_pc = 0;
  long group = -1, thread = -1, other_group = -1, other_thread = -1;
  int slot = -1;
  long offset = 0;
  size_t size = 0;
  u64 count = 1;
};

// Bytes that one instruction moved through one binding.
struct Site {
  u32 pc = 0;
  int slot = 0;
  bool used = false, write = false;
  u64 count = 0, bytes = 0, low = ~0ull, high = 0;
};

struct Counters {
  u64 threadgroup_barriers = 0, simdgroup_barriers = 0, lane_exchanges = 0, matrix_multiplies = 0,
      atomics = 0;
  u64 threadgroup_memory = 0;
};
extern Counters counters;

// Address range of the kernel library.
extern uintptr_t library_base, library_end;
inline u32 relative(const void* pc) { return (u32)((uintptr_t)pc - library_base); }

// The last place in the kernel that called the runtime.
extern u32 last_pc;

// Finds or makes the report of (kind, pc, other_pc). Null if it was there already (then counted) or there are
// too many.
Report* report(const char* kind, u32 pc, u32 other_pc = 0);
bool has_reports();
Site& site(u32 pc, int slot, bool write);
void print_results(const char* status);

}  // namespace sim
