// Buffers, the windows through which a kernel sees them, and the shadow that says who touched which byte
// when.
#pragma once
#include "fiber.h"
#include "report.h"

namespace sim {

// Shadow flags, one byte per byte of memory.
enum : u8 { kInitialised = 1, kLoaded = 2, kStored = 4, kAllocated = 8 };

// A thread's access to a granule. `thread` is (group << 10 | index) + 1, `stamp` the clock at that time.
struct Access {
  u32 thread, stamp, pc;
};
// Two readers of different simdgroups are enough: a writer that is ordered after both is ordered after all
// others that were left out in their favour, or it is in conflict with one of the two.
struct Cell {
  Access writer, reader, other_reader;
};

struct Buffer {
  char* data = nullptr;
  u8* flags = nullptr;
  size_t size = 0;
  int descriptor = -1;
  Cell* cells = nullptr;  // null if nothing can write the buffer in this launch
  int granule_bits = 2;
  bool cells_used = false;
};

// `start` is where byte `offset` of the buffer lies for the kernel.
struct Window {
  uintptr_t start = 0;
  size_t size = 0, offset = 0;
  Buffer* buffer = nullptr;
  bool read_only = false;
};

constexpr int kBuffers = 32, kThreadgroupSlot = 32, kWindows = 33, kWindowBits = 35;
constexpr size_t kThreadgroupArena = 1 << 20, kThreadgroupLimit = 32 << 10;
extern Window windows[kWindows];
extern uintptr_t region;

void reserve_region();
// Maps `size` bytes from `offset` of the buffer as binding `slot`.
void open_window(int slot, Buffer* buffer, size_t offset, size_t size, bool read_only);
Buffer* map_files(const char* data_path, const char* flags_path, size_t size);
Buffer* copy_bytes(const std::string& bytes);
void track(Buffer* buffer);

void start_threadgroup_memory();
// Address of a threadgroup variable or argument; `site` tells variables of one kernel apart.
u64 threadgroup_variable(u32 site, u32 size, u32 align, u32 pc);
u64 allocate_threadgroup(u32 size, u32 align, u32 pc);

// Checks and records one access, before it happens. Atomics do not race with atomics.
void touch(uintptr_t address, size_t size, bool write, u32 pc, bool atomic = false);
// Ends the launch from within a fiber.
[[noreturn]] void give_up();

}  // namespace sim
