#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "scheduler.h"

namespace sim {

Window windows[kWindows];
uintptr_t region;

static constexpr size_t kSlack = 64 << 10, kRedZone = 256, kPage = 4096;
static constexpr u32 kAtomicBit = 1u << 31;
static Buffer threadgroup_memory;
static size_t threadgroup_top, threadgroup_used;
static std::vector<std::pair<u32, u64>> threadgroup_variables;

static void* map(void* at, size_t size, int protection, int flags, int descriptor = -1) {
  void* p = mmap(at, size, protection, flags, descriptor, 0);
  if (p == MAP_FAILED) {
    perror("mmap");
    exit(2);
  }
  return p;
}
static void* map_anonymous(size_t size, void* at = nullptr) {
  return map(at, size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0));
}
static size_t pages(size_t n) { return (n + kPage - 1) & ~(kPage - 1); }

// ---------------------------------------------------------------- set up

void reserve_region() {
  size_t size = (size_t)kWindows << kWindowBits;
  region = (uintptr_t)map(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  Buffer& t = threadgroup_memory;
  t.size = kThreadgroupArena;
  t.flags = (u8*)map_anonymous(t.size);
  char* at = (char*)(region + ((size_t)kThreadgroupSlot << kWindowBits));
  t.data = (char*)map_anonymous(t.size, at);
  windows[kThreadgroupSlot] = {(uintptr_t)at, t.size, 0, &t, false};
  track(&t);
}

Buffer* map_files(const char* data_path, const char* flags_path, size_t size) {
  Buffer* b = new Buffer;
  b->size = size;
  b->descriptor = open(data_path, O_RDWR);
  int flags = open(flags_path, O_RDWR);
  if (b->descriptor < 0 || flags < 0) {
    perror(data_path);
    exit(2);
  }
  if (size) b->flags = (u8*)map(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, flags);
  close(flags);
  return b;
}

Buffer* copy_bytes(const std::string& bytes) {
  Buffer* b = new Buffer;
  b->size = bytes.size();
  b->flags = (u8*)map_anonymous(std::max<size_t>(b->size, 1));
  memset(b->flags, kInitialised, b->size);
  b->descriptor = memfd_create("bytes", 0);
  if (b->descriptor < 0 || write(b->descriptor, bytes.data(), bytes.size()) != (ssize_t)bytes.size()) {
    perror("memfd");
    exit(2);
  }
  return b;
}

void open_window(int slot, Buffer* buffer, size_t offset, size_t size, bool read_only) {
  char* base = (char*)(region + ((size_t)slot << kWindowBits));
  size_t whole = pages(buffer->size);
  map_anonymous(whole + 2 * kSlack, base);
  char* data = base + kSlack;
  if (whole)
    map(data, whole, PROT_READ | PROT_WRITE, (read_only ? MAP_PRIVATE : MAP_SHARED) | MAP_FIXED,
        buffer->descriptor);
  windows[slot] = {(uintptr_t)data + offset, size, offset, buffer, read_only};
}

static Cell* map_cells(size_t n) {
  void* p = map_anonymous(n * sizeof(Cell));
  if (n * sizeof(Cell) > 16 << 20) madvise(p, n * sizeof(Cell), MADV_HUGEPAGE);
  return (Cell*)p;
}

void track(Buffer* b) {
  if (!b->cells) b->cells = map_cells((b->size >> b->granule_bits) + 1);
}

// Splits every granule in two until one is `1 << bits` bytes.
static void refine(Buffer* b, int bits) {
  size_t old = (b->size >> b->granule_bits) + 1, now = (b->size >> bits) + 1;
  int parts = 1 << (b->granule_bits - bits);
  Cell* cells = map_cells(now);
  for (size_t i = 0; b->cells_used && i < old; i++) {
    const Cell& c = b->cells[i];
    if (!c.writer.thread && !c.reader.thread) continue;
    for (size_t k = i * parts; k < std::min(now, (i + 1) * parts); k++) cells[k] = c;
  }
  munmap(b->cells, old * sizeof(Cell));
  b->cells = cells;
  b->granule_bits = bits;
}

// ---------------------------------------------------------------- threadgroup memory

void start_threadgroup_memory() {
  memset(threadgroup_memory.flags, 0, std::min(kThreadgroupArena, threadgroup_top + kRedZone));
  threadgroup_top = kRedZone;
  threadgroup_used = 0;
  threadgroup_variables.clear();
}

u64 allocate_threadgroup(u32 size, u32 align, u32 pc) {
  size_t step = std::max<size_t>(align, 16);
  size_t at = (threadgroup_top + kRedZone + step - 1) / step * step;
  threadgroup_used = (threadgroup_used + step - 1) / step * step + size;
  counters.threadgroup_memory = std::max<u64>(counters.threadgroup_memory, threadgroup_used);
  if (threadgroup_used > kThreadgroupLimit || at + size + kRedZone > kThreadgroupArena) {
    if (Report* r = report("threadgroup-memory", pc))
      r->message = std::to_string(threadgroup_used) + " bytes of threadgroup memory, the limit is " +
                   std::to_string(kThreadgroupLimit);
    if (at + size + kRedZone > kThreadgroupArena) give_up();
  }
  memset(threadgroup_memory.data + at, 0xff, size);
  memset(threadgroup_memory.flags + at, kAllocated, size);
  threadgroup_top = at + size;
  return (u64)(threadgroup_memory.data + at);
}

u64 threadgroup_variable(u32 site, u32 size, u32 align, u32 pc) {
  for (auto& [known, address] : threadgroup_variables)
    if (known == site) return address;
  u64 address = allocate_threadgroup(size, align, pc);
  threadgroup_variables.push_back({site, address});
  return address;
}

// ---------------------------------------------------------------- checks

static void locate(Report* r, const Window& w, long at, size_t size) {
  if (!r) return;
  r->slot = (int)(&w - windows);
  r->offset = at;
  r->size = size;
}

static void describe(Report* r, bool write) {
  if (r) r->message = write ? "write" : "read";
}

static void outside(const Window& w, uintptr_t address, size_t size, bool write, u32 pc) {
  Report* r = report("out-of-bounds", pc);
  describe(r, write);
  locate(r, w, (long)(address - w.start), size);
  // Near misses hit slack that is mapped, so that a run can go on and find more.
  bool local = w.buffer == &threadgroup_memory;
  uintptr_t low = local ? w.start : w.start - w.offset - kSlack;
  uintptr_t high =
      local ? w.start + w.size : w.start - w.offset + pages(w.buffer ? w.buffer->size : 0) + kSlack;
  bool mapped = w.buffer && address >= low && address + size <= high;
  if (!mapped) give_up();
}

// True if the earlier access p happens before anything the current thread does now.
static inline bool ordered(const Access& p, const Now& now, bool in_threadgroup_memory) {
  if (!p.thread || p.thread == now.thread) return true;
  u32 before = p.thread - 1, me = now.thread - 1;
  if (before >> 10 != me >> 10) return in_threadgroup_memory;
  if (p.stamp < now.group_barrier[in_threadgroup_memory]) return true;
  return (before ^ me) >> 5 == 0 && p.stamp < now.simd_barrier[in_threadgroup_memory];
}

static void race(const Access& p, const Window& w, size_t at, size_t size, bool write, bool wrote, u32 pc) {
  Report* r = report("race", pc, p.pc & ~kAtomicBit);
  if (!r) return;
  r->message = std::string(write ? "write" : "read") + " against " + (wrote ? "write" : "read");
  r->other_group = (p.thread - 1) >> 10;
  r->other_thread = (p.thread - 1) & 1023;
  locate(r, w, (long)at, size);
}

static inline void check_cell(Cell& c, const Access& me, const Now& now, const Window& w, size_t at,
                              size_t size, bool write, bool local, u32 pc) {
  bool atomic = me.pc & kAtomicBit;
  auto conflicts = [&](const Access& p) {
    return !ordered(p, now, local) && !(atomic && (p.pc & kAtomicBit));
  };
  if (conflicts(c.writer)) race(c.writer, w, at, size, write, true, pc);
  if (write) {
    if (conflicts(c.reader))
      race(c.reader, w, at, size, write, false, pc);
    else if (conflicts(c.other_reader))
      race(c.other_reader, w, at, size, write, false, pc);
    c.writer = me;
    c.reader.thread = c.other_reader.thread = 0;
  } else if (ordered(c.reader, now, local)) {
    c.reader = me;
  } else if (ordered(c.other_reader, now, local) ||
             ((c.reader.thread - 1) >> 5 == (c.other_reader.thread - 1) >> 5 &&
              (c.reader.thread - 1) >> 5 != (me.thread - 1) >> 5)) {
    c.other_reader = me;
  }
}

static void check_races(const Window& w, size_t at, size_t size, bool write, u32 pc, bool atomic) {
  Buffer* b = w.buffer;
  size_t offset = w.offset + at;
  while (b->granule_bits && ((offset | size) & ((1u << b->granule_bits) - 1)))
    refine(b, __builtin_ctzl(offset | size | (1u << b->granule_bits)));
  b->cells_used = true;
  bool local = b == &threadgroup_memory;
  Now now = now_of_current();
  Access me{now.thread, now.clock, pc | (atomic ? kAtomicBit : 0)};
  for (size_t g = offset >> b->granule_bits; g <= (offset + size - 1) >> b->granule_bits; g++)
    check_cell(b->cells[g], me, now, w, at, size, write, local, pc);
}

static void check_elsewhere(uintptr_t address, size_t size, bool write, u32 pc) {
  if (!current) return;
  if (address - (uintptr_t)current->stack < kStackBytes) return;
  if (address >= library_base && address < library_end) return;
  Report* r = report("wild-access", pc);
  describe(r, write);
  if (r) {
    r->offset = (long)address;
    r->size = size;
  }
  give_up();
}

template <typename Word>
static inline u8 mark_word(u8* flags, u8 mark) {
  Word v, marks = (Word)(0x0101010101010101ull * mark);
  memcpy(&v, flags, sizeof v);
  Word marked = v | marks;
  if (marked != v) memcpy(flags, &marked, sizeof v);
  for (size_t bits = sizeof v * 4; bits >= 8; bits /= 2) v &= v >> bits;
  return (u8)v;
}
// Sets `mark` in all flags; returns the flags that all had before.
static inline u8 mark_all(u8* flags, size_t size, u8 mark) {
  if (size == 4) return mark_word<u32>(flags, mark);
  u8 all = 0xff;
  for (; size >= 8; size -= 8, flags += 8) all &= mark_word<u64>(flags, mark);
  for (; size; size--, flags++) all &= mark_word<u8>(flags, mark);
  return all;
}

void touch(uintptr_t address, size_t size, bool write, u32 pc, bool atomic) {
  last_pc = pc;
  size_t r = address - region;
  if (__builtin_expect(r >> kWindowBits >= kWindows, 0)) return check_elsewhere(address, size, write, pc);
  Window& w = windows[r >> kWindowBits];
  size_t at = address - w.start;
  if (__builtin_expect(at >= w.size || size > w.size - at, 0)) return outside(w, address, size, write, pc);
  if (write && w.read_only) {
    Report* bad = report("read-only", pc);
    describe(bad, write);
    locate(bad, w, (long)at, size);
    return;
  }
  u8 all = mark_all(w.buffer->flags + w.offset + at, size, write ? kInitialised | kStored : kLoaded);
  if (w.buffer == &threadgroup_memory && !(all & kAllocated)) return outside(w, address, size, write, pc);
  if (!write && !(all & kInitialised)) {
    Report* bad = report("uninitialised", pc);
    describe(bad, write);
    locate(bad, w, (long)at, size);
  }
  Site& s = site(pc, (int)(&w - windows), write);
  s.count++;
  s.bytes += size;
  s.low = std::min<u64>(s.low, w.offset + at);
  s.high = std::max<u64>(s.high, w.offset + at + size);
  if (w.buffer->cells && current) check_races(w, at, size, write, pc, atomic);
}

}  // namespace sim
