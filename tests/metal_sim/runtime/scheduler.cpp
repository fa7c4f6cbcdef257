#include "scheduler.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "memory.h"

namespace sim {

std::vector<Simdgroup> simdgroups;
static Dispatch dispatch;
static void (*entry)();
static u32 group_index[3], group_size[3], group_linear, thread_count;
static u32 done_count, waiting_count, waiting_pc, waiting_flags, clock_now;
static u32 group_barrier[2];
static u64 arguments[kLanes];
static u64 random_state;
static bool aborted;

static u32 random_below(u32 n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (u32)(random_state % n);
}

static std::vector<u32> order_of(u32 n) {
  std::vector<u32> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (dispatch.order == 1) std::reverse(order.begin(), order.end());
  if (dispatch.order == 2)
    for (u32 i = n; i > 1; i--) std::swap(order[i - 1], order[random_below(i)]);
  return order;
}

long current_group() { return group_linear; }

Now now_of_current() {
  const Simdgroup& s = simdgroups[current->simdgroup];
  return {(group_linear << 10 | current->index) + 1,
          clock_now,
          {group_barrier[0], group_barrier[1]},
          {s.barrier[0], s.barrier[1]}};
}

void give_up() {
  aborted = true;
  if (current) suspend();
  print_results("aborted");
  _exit(0);
}

// ---------------------------------------------------------------- simdgroups

static const char* name_of(u32 op) {
  static const char* names[] = {"simdgroup_barrier",    "simd_shuffle",     "simd_broadcast",
                                "simd_broadcast_first", "a simd reduction", "a simd vote",
                                "simdgroup_load",       "simdgroup_store",  "simdgroup_multiply"};
  return names[op];
}

// D = A * B + C with the products of one element added in order of k, each with one rounding.
static void multiply(Simdgroup& s) {
  u32 half = s.sequence & 1;
  float a[64], b[64], *d = s.product[half];
  for (u32 lane = 0; lane < kLanes; lane++) {
    u32 at = SIM_MATRIX_ROW(lane) * 8 + SIM_MATRIX_COL(lane);
    const float* v = (const float*)s.slots[half][lane];
    a[at] = v[0], a[at + 1] = v[1];
    b[at] = v[2], b[at + 1] = v[3];
    d[at] = v[4], d[at + 1] = v[5];
  }
  for (int r = 0; r < 8; r++)
    for (int k = 0; k < 8; k++)
      for (int c = 0; c < 8; c++) d[r * 8 + c] = __builtin_fmaf(a[r * 8 + k], b[k * 8 + c], d[r * 8 + c]);
  counters.matrix_multiplies++;
}

static void complete_if_all_arrived(Simdgroup& s) {
  if (!s.arrived || s.arrived != (s.members & ~s.done)) return;
  if (s.op == SIM_OP_MATRIX_MULTIPLY) multiply(s);
  if (s.op == SIM_OP_BARRIER) {
    clock_now++;
    if (s.flags & SIM_MEM_DEVICE) s.barrier[0] = clock_now;
    if (s.flags & SIM_MEM_THREADGROUP) s.barrier[1] = clock_now;
    counters.simdgroup_barriers++;
  } else {
    counters.lane_exchanges += s.op < SIM_OP_MATRIX_LOAD;
  }
  s.active[s.sequence & 1] = s.arrived;
  u32 first = (u32)(&s - simdgroups.data()) * kLanes;
  for (u32 lane = 0; lane < kLanes; lane++)
    if (s.arrived >> lane & 1) fibers[first + lane].state = State::ready;
  s.arrived = 0;
  s.sequence++;
}

u32 rendezvous(u32 op, u32 pc, const void* data, size_t size, u32 flags) {
  Simdgroup& s = simdgroups[current->simdgroup];
  u32 lane = current->lane, half = s.sequence & 1;
  last_pc = pc;
  char text[160];
  if (s.arrived && (s.op != op || s.pc != pc)) {
    if (Report* r = report("simdgroup-divergence", pc, s.pc)) {
      snprintf(text, sizeof text, "lane %u is at %s while lanes %08x wait at %s", lane, name_of(op),
               s.arrived, name_of(s.op));
      r->message = text;
    }
    give_up();
  }
  if (op >= SIM_OP_MATRIX_LOAD && (s.done || s.members != ~0u))
    if (Report* r = report("simdgroup-divergence", pc)) {
      snprintf(text, sizeof text, "%s needs 32 active lanes, here are %08x", name_of(op),
               s.members & ~s.done);
      r->message = text;
    }
  if (size) memcpy(s.slots[half][lane], data, size);
  s.op = op;
  s.pc = pc;
  s.flags = flags;
  s.arrived |= 1u << lane;
  current->state = State::at_simdgroup_op;
  complete_if_all_arrived(s);
  if (current->state == State::at_simdgroup_op) suspend();
  return half;
}

// ---------------------------------------------------------------- one threadgroup

static void fiber_body() {
  entry();
  Fiber* f = current;
  f->state = State::done;
  done_count++;
  simdgroups[f->simdgroup].done |= 1u << f->lane;
  complete_if_all_arrived(simdgroups[f->simdgroup]);
  suspend();
  abort();
}

static void start_threadgroup(u32 linear) {
  group_linear = linear;
  group_index[0] = linear % dispatch.grid[0];
  group_index[1] = linear / dispatch.grid[0] % dispatch.grid[1];
  group_index[2] = linear / (dispatch.grid[0] * dispatch.grid[1]);
  thread_count = 1;
  for (int i = 0; i < 3; i++) {
    group_size[i] = std::min(dispatch.group[i], dispatch.threads[i] - group_index[i] * dispatch.group[i]);
    thread_count *= group_size[i];
  }
  u32 simdgroup_count = (thread_count + kLanes - 1) / kLanes;
  for (u32 i = 0; i < simdgroup_count; i++) {
    Simdgroup& s = simdgroups[i];
    u32 lanes = std::min(kLanes, thread_count - i * kLanes);
    s.members = lanes == kLanes ? ~0u : (1u << lanes) - 1;
    s.done = s.arrived = s.sequence = 0;
    s.barrier[0] = s.barrier[1] = 0;
  }
  for (u32 i = 0; i < thread_count; i++) {
    fibers[i].index = i;
    fibers[i].simdgroup = i / kLanes;
    fibers[i].lane = i % kLanes;
    prepare(fibers[i], fiber_body);
  }
  start_threadgroup_memory();
  for (u32 i = 0; i < kLanes; i++)
    if (dispatch.threadgroup_arguments[i])
      arguments[i] = allocate_threadgroup(dispatch.threadgroup_arguments[i], 16, 0);
  done_count = waiting_count = 0;
  group_barrier[0] = group_barrier[1] = ++clock_now;
}

// Runs every thread that is ready, a simdgroup as far as it gets before the next. False if none was.
static bool run_ready_threads() {
  bool progress = false;
  for (u32 s : order_of((thread_count + kLanes - 1) / kLanes)) {
    auto lanes = order_of(kLanes);
    for (bool again = true; again && !aborted;) {
      again = false;
      for (u32 lane : lanes) {
        u32 i = s * kLanes + lane;
        if (i >= thread_count || fibers[i].state != State::ready) continue;
        resume(fibers[i]);
        again = progress = true;
        if (aborted) break;
      }
    }
  }
  return progress;
}

static void release_threadgroup_barrier() {
  clock_now++;
  if (waiting_flags & SIM_MEM_DEVICE) group_barrier[0] = clock_now;
  if (waiting_flags & SIM_MEM_THREADGROUP) group_barrier[1] = clock_now;
  for (u32 i = 0; i < thread_count; i++)
    if (fibers[i].state == State::at_threadgroup_barrier) fibers[i].state = State::ready;
  waiting_count = 0;
  counters.threadgroup_barriers++;
}

// Some threads wait at a threadgroup barrier and others at a simdgroup operation that can never complete.
static void report_stuck() {
  char text[160];
  for (u32 i = 0; i < thread_count; i++)
    if (fibers[i].state == State::at_simdgroup_op) {
      const Simdgroup& s = simdgroups[fibers[i].simdgroup];
      current = &fibers[i];
      if (Report* r = report("simdgroup-divergence", s.pc)) {
        snprintf(text, sizeof text, "%s is reached by lanes %08x only, of %08x; the others wait at a barrier",
                 name_of(s.op), s.arrived, s.members & ~s.done);
        r->message = text;
      }
      break;
    }
  for (u32 i = 0; i < thread_count && waiting_count; i++)
    if (fibers[i].state == State::at_threadgroup_barrier) {
      current = &fibers[i];
      if (Report* r = report("barrier-divergence", waiting_pc)) {
        snprintf(text, sizeof text, "%u of %u threads wait here, the others never arrive", waiting_count,
                 thread_count);
        r->message = text;
      }
      break;
    }
  current = nullptr;
  aborted = true;
}

static void run_threadgroup(u32 linear) {
  start_threadgroup(linear);
  while (!aborted) {
    bool progress = run_ready_threads();
    if (aborted || done_count == thread_count) return;
    if (waiting_count && waiting_count == thread_count - done_count)
      release_threadgroup_barrier();
    else if (!progress)
      report_stuck();
  }
}

bool run(const Dispatch& d, void (*kernel)()) {
  dispatch = d;
  entry = kernel;
  random_state = d.seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
  u32 most = d.group[0] * d.group[1] * d.group[2];
  fibers.resize(most);
  simdgroups.resize((most + kLanes - 1) / kLanes);
  for (u32 group : order_of(d.grid[0] * d.grid[1] * d.grid[2])) {
    run_threadgroup(group);
    if (aborted) return false;
  }
  return true;
}

}  // namespace sim

// ---------------------------------------------------------------- what kernels call

using namespace sim;
#define EXPORT extern "C" __attribute__((visibility("default")))
#define PC relative(__builtin_return_address(0))

EXPORT void __msl_rt_threadgroup_barrier(u32 flags) {
  char text[160];
  if (waiting_count && waiting_pc != PC) {
    if (Report* r = report("barrier-divergence", PC, waiting_pc))
      r->message = "threads of one threadgroup wait at two different barriers";
    give_up();
  }
  if (done_count)
    if (Report* r = report("barrier-divergence", PC)) {
      snprintf(text, sizeof text, "%u of %u threads have returned before this barrier", done_count,
               thread_count);
      r->message = text;
    }
  last_pc = waiting_pc = PC;
  waiting_flags = flags;
  waiting_count++;
  current->state = State::at_threadgroup_barrier;
  suspend();
}

EXPORT u64 __msl_rt_threadgroup_argument(u32 index) { return index < kLanes ? arguments[index] : 0; }

EXPORT void __msl_rt_builtin(u32 kind, u32* out) {
  u32 i = current->index, position[3] = {i % group_size[0], i / group_size[0] % group_size[1],
                                         i / (group_size[0] * group_size[1])};
  out[0] = out[1] = out[2] = 0;
  switch (kind) {
    case 0:
      for (int k = 0; k < 3; k++) out[k] = group_index[k] * dispatch.group[k] + position[k];
      break;
    case 1:
      memcpy(out, position, 12);
      break;
    case 2:
      memcpy(out, group_index, 12);
      break;
    case 3:
      memcpy(out, group_size, 12);
      break;
    case 4:
      memcpy(out, dispatch.grid, 12);
      break;
    case 5:
      memcpy(out, dispatch.threads, 12);
      break;
    case 6:
      out[0] = i;
      break;
    case 7:
      out[0] = i % kLanes;
      break;
    case 8:
      out[0] = i / kLanes;
      break;
    case 9:
      out[0] = (thread_count + kLanes - 1) / kLanes;
      break;
    case 10:
      out[0] = kLanes;
      break;
    case 11:
      memcpy(out, dispatch.group, 12);
      break;
    case 12:
      out[0] = i % 4;
      break;
    case 13:
      out[0] = i / 4;
      break;
  }
}
