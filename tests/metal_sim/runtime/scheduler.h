// Runs threadgroups one after another and their threads as fibers, in an order that the schedule gives.
#pragma once
#include "fiber.h"
#include "sim_ops.h"

namespace sim {

struct Dispatch {
  u32 grid[3] = {1, 1, 1};     // threadgroups
  u32 group[3] = {1, 1, 1};    // threads of a full threadgroup
  u32 threads[3] = {0, 0, 0};  // all threads, where the last threadgroups may be smaller
  int order = 0;               // 0 forward, 1 reverse, 2 shuffled by seed
  u64 seed = 1;
  u32 threadgroup_arguments[kLanes] = {};  // bytes of [[threadgroup(i)]]
};

// What the race detector needs to know of a moment. Index 1 is threadgroup memory, index 0 device memory: the
// clock of the last barrier that ordered it, among the threadgroup and among the simdgroup.
struct Now {
  u32 thread, clock;
  u32 group_barrier[2], simd_barrier[2];
};
Now now_of_current();

// True if every threadgroup was run to its end.
bool run(const Dispatch& dispatch, void (*entry)());

// One simdgroup: the lanes that exist, those that have ended, those that wait at the operation `op`.
struct Simdgroup {
  u32 members, done, arrived;
  u32 op, pc, flags, sequence;
  u32 active[2];
  u32 barrier[2];
  char slots[2][kLanes][64];
  float product[2][64];
};
extern std::vector<Simdgroup> simdgroups;

// Waits until all lanes of the simdgroup are here with `size` bytes each; returns which half of `slots` has
// them.
u32 rendezvous(u32 op, u32 pc, const void* data, size_t size, u32 flags = 0);

}  // namespace sim
