// Runs one kernel: reads the description of a launch on standard input, prints what happened as JSON.
//
//   library PATH | entry N | grid X Y Z | group X Y Z | threads X Y Z | schedule ORDER SEED | timeout SECONDS
//   constant SLOT HEX                          bytes of a function constant
//   threadgroup INDEX BYTES                    length of a threadgroup argument
//   bytes INDEX HEX                            argument bytes
//   storage ID SIZE / DATA PATH / FLAGS PATH   a buffer and its shadow flags, two lines of paths follow
//   buffer INDEX ID OFFSET SIZE READ_ONLY      binds part of a storage
//   run
#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>

#include "memory.h"
#include "scheduler.h"

using namespace sim;
#define EXPORT extern "C" __attribute__((visibility("default")))

// Storage of function constants, which kernels see as external constants of these names.
static constexpr u32 kConstants = 192;
// clang-format off
#define SLOT(n) extern "C" __attribute__((visibility("default"), aligned(16))) char msl_constant_##n[16] = {};
#define TEN(t) SLOT(t##0) SLOT(t##1) SLOT(t##2) SLOT(t##3) SLOT(t##4) SLOT(t##5) SLOT(t##6) SLOT(t##7) SLOT(t##8) SLOT(t##9)
SLOT(0) SLOT(1) SLOT(2) SLOT(3) SLOT(4) SLOT(5) SLOT(6) SLOT(7) SLOT(8) SLOT(9)
TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9)
TEN(10) TEN(11) TEN(12) TEN(13) TEN(14) TEN(15) TEN(16) TEN(17) TEN(18) SLOT(190) SLOT(191)
    // clang-format on
    static bool constant_defined[kConstants];

static void set_constant(u32 slot, const void* value, size_t size) {
  std::string name = "msl_constant_" + std::to_string(slot);
  void* at = dlsym(RTLD_DEFAULT, name.c_str());
  if (slot >= kConstants || !at || size > 16) {
    fprintf(stderr, "no function constant %u\n", slot);
    exit(2);
  }
  memcpy(at, value, size);
  constant_defined[slot] = true;
}
EXPORT void __msl_rt_set_constant(u32 slot, const void* value, u32 size) { set_constant(slot, value, size); }
EXPORT bool __msl_rt_constant_defined(u32 slot) { return slot < kConstants && constant_defined[slot]; }

EXPORT u64 __msl_rt_buffer(u32 index) { return index < kBuffers ? windows[index].start : 0; }
EXPORT u64 __msl_rt_threadgroup_variable(u32 site, u32 size, u32 align) {
  return threadgroup_variable(site, size, align, relative(__builtin_return_address(0)));
}

static std::string unhex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) bytes += (char)std::stoi(text.substr(i, 2), nullptr, 16);
  return bytes;
}

// ---------------------------------------------------------------- crashes and endless loops

static void* program_counter(void* context) {
  auto* c = (ucontext_t*)context;
#if defined(__x86_64__)
  return (void*)(c->uc_mcontext.gregs[REG_RIP] + 1);
#else
  return (void*)(c->uc_mcontext.pc + 1);
#endif
}

static void on_signal(int number, siginfo_t* info, void* context) {
  void* pc = program_counter(context);
  bool inside = (uintptr_t)pc >= library_base && (uintptr_t)pc < library_end;
  bool timeout = number == SIGPROF;
  if (Report* r = report(timeout ? "timeout" : "crash", inside && !timeout ? relative(pc) : last_pc))
    r->message =
        timeout ? "still running, stopped"
                : std::string(strsignal(number)) + " at address " + std::to_string((uintptr_t)info->si_addr);
  print_results(timeout ? "timeout" : "crashed");
  _exit(0);
}

static void catch_signals() {
  static char stack[1 << 16];
  stack_t alternate{};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, nullptr);
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int s : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGPROF}) sigaction(s, &action, nullptr);
}

// ---------------------------------------------------------------- the launch

struct Launch {
  Dispatch dispatch;
  std::string library;
  int entry = 0;
  unsigned timeout = 60;
  std::map<int, Buffer*> storages;
};

static void read_storage(Launch& launch) {
  int id;
  size_t size;
  std::cin >> id >> size >> std::ws;
  std::string data, flags;
  std::getline(std::cin, data);
  std::getline(std::cin, flags);
  launch.storages[id] = map_files(data.c_str(), flags.c_str(), size);
}

static void read_buffer(Launch& launch) {
  int index, id;
  size_t offset, size;
  bool read_only;
  std::cin >> index >> id >> offset >> size >> read_only;
  Buffer* b = launch.storages.at(id);
  open_window(index, b, offset, size, read_only);
  if (!read_only) track(b);
}

static bool read_item(Launch& launch, const std::string& word) {
  Dispatch& d = launch.dispatch;
  auto read3 = [](u32* v) { std::cin >> v[0] >> v[1] >> v[2]; };
  std::string hex;
  int index;
  if (word == "library") {
    std::cin >> std::ws;
    std::getline(std::cin, launch.library);
  } else if (word == "entry") {
    std::cin >> launch.entry;
  } else if (word == "grid") {
    read3(d.grid);
  } else if (word == "group") {
    read3(d.group);
  } else if (word == "threads") {
    read3(d.threads);
  } else if (word == "schedule") {
    std::cin >> d.order >> d.seed;
  } else if (word == "timeout") {
    std::cin >> launch.timeout;
  } else if (word == "threadgroup") {
    std::cin >> index >> d.threadgroup_arguments[index & 31];
  } else if (word == "constant") {
    std::cin >> index >> hex;
    std::string bytes = unhex(hex);
    set_constant((u32)index, bytes.data(), bytes.size());
  } else if (word == "bytes") {
    std::cin >> index >> hex;
    Buffer* b = copy_bytes(unhex(hex));
    open_window(index, b, 0, b->size, true);
  } else if (word == "storage") {
    read_storage(launch);
  } else if (word == "buffer") {
    read_buffer(launch);
  } else {
    return false;
  }
  return true;
}

static int note_range(dl_phdr_info* info, size_t, void* wanted) {
  if (info->dlpi_addr != library_base || (uintptr_t)wanted != library_base) return 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& h = info->dlpi_phdr[i];
    if (h.p_type == PT_LOAD)
      library_end = std::max<uintptr_t>(library_end, library_base + h.p_vaddr + h.p_memsz);
  }
  return 1;
}

int main() {
  Launch launch;
  reserve_region();
  for (std::string word; std::cin >> word && word != "run";)
    if (!read_item(launch, word)) {
      fprintf(stderr, "unknown item '%s'\n", word.c_str());
      return 2;
    }
  void* library = dlopen(launch.library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  std::string name = "__msl_entry_" + std::to_string(launch.entry);
  auto entry = library ? (void (*)())dlsym(library, name.c_str()) : nullptr;
  auto constants = library ? (void (*)())dlsym(library, "__msl_constants") : nullptr;
  if (!entry || !constants) {
    fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  Dl_info where;
  dladdr((void*)entry, &where);
  library_base = library_end = (uintptr_t)where.dli_fbase;
  dl_iterate_phdr(note_range, (void*)library_base);
  catch_signals();
  // Of its own time: a busy machine must not end a kernel.
  itimerval limit{{0, 0}, {launch.timeout, 0}};
  setitimer(ITIMER_PROF, &limit, nullptr);
  constants();
  bool complete = run(launch.dispatch, entry);
  print_results(complete ? "complete" : "aborted");
  return 0;
}
