// One fiber (a stack and a place to go on from) per GPU thread of the threadgroup that runs.
#pragma once
#include <cstdlib>
#include <vector>

#include "report.h"

namespace sim {

constexpr u32 kLanes = 32, kMaxThreads = 1024;
constexpr size_t kStackBytes = 256 << 10;

enum class State { ready, at_threadgroup_barrier, at_simdgroup_op, done };

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  State state = State::done;
  u32 index = 0, simdgroup = 0, lane = 0;
};

extern std::vector<Fiber> fibers;
extern Fiber* current;  // null while the scheduler itself runs
long current_group();

// Makes fiber f start at the beginning of `body` when it is next resumed.
void prepare(Fiber& f, void (*body)());
// From the scheduler: runs f until it waits or ends.
void resume(Fiber& f);
// From a fiber: back to the scheduler.
void suspend();

}  // namespace sim
