#include "fiber.h"

#include <sys/mman.h>

#include <cstring>

namespace sim {

std::vector<Fiber> fibers;
Fiber* current;
static void* scheduler_stack_pointer;

}  // namespace sim

// Saves the callee-saved registers on this stack, notes its pointer in *save, and goes on with the stack at
// `to`.
extern "C" void sim_switch(void** save, void* to);
#if defined(__x86_64__)
asm(R"(.text
.globl sim_switch
.hidden sim_switch
sim_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
)");
#elif defined(__aarch64__)
asm(R"(.text
.globl sim_switch
.hidden sim_switch
sim_switch:
 sub sp,sp,#160
 stp x19,x20,[sp]
 stp x21,x22,[sp,#16]
 stp x23,x24,[sp,#32]
 stp x25,x26,[sp,#48]
 stp x27,x28,[sp,#64]
 stp x29,x30,[sp,#80]
 stp d8,d9,[sp,#96]
 stp d10,d11,[sp,#112]
 stp d12,d13,[sp,#128]
 stp d14,d15,[sp,#144]
 mov x9,sp
 str x9,[x0]
 mov sp,x1
 ldp x19,x20,[sp]
 ldp x21,x22,[sp,#16]
 ldp x23,x24,[sp,#32]
 ldp x25,x26,[sp,#48]
 ldp x27,x28,[sp,#64]
 ldp x29,x30,[sp,#80]
 ldp d8,d9,[sp,#96]
 ldp d10,d11,[sp,#112]
 ldp d12,d13,[sp,#128]
 ldp d14,d15,[sp,#144]
 add sp,sp,#160
 ret
)");
#else
#error "the simulator runs on x86-64 and arm64"
#endif

namespace sim {

void prepare(Fiber& f, void (*body)()) {
  constexpr size_t kGuard = 4096;
  if (!f.stack) {
    f.stack = (char*)mmap(nullptr, kStackBytes + kGuard, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f.stack == MAP_FAILED) abort();
    mprotect(f.stack, kGuard, PROT_NONE);
    f.stack += kGuard;
  }
  void** sp = (void**)(f.stack + kStackBytes - 64);
#if defined(__x86_64__)
  *--sp = nullptr;
  *--sp = (void*)body;
  sp -= 6;
  memset(sp, 0, 6 * sizeof(void*));
#else
  sp -= 20;
  memset(sp, 0, 160);
  sp[11] = (void*)body;
#endif
  f.stack_pointer = sp;
  f.state = State::ready;
}

void resume(Fiber& f) {
  current = &f;
  sim_switch(&scheduler_stack_pointer, f.stack_pointer);
  current = nullptr;
}

void suspend() { sim_switch(&current->stack_pointer, scheduler_stack_pointer); }

}  // namespace sim
