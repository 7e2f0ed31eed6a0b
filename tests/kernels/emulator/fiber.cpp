#include "fiber.h"

#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace xattn::emulator {
namespace {

// AddressSanitizer pads every array of a frame; unread pages cost nothing.
constexpr std::size_t kStackBytes = 256 * 1024;

Fiber* left = nullptr;

char* map_stack() {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) std::abort();
  return static_cast<char*>(memory) + page;
}

}  // namespace

#if defined(__x86_64__)

// Callee-saved registers go to the old stack and come from the new one; the return address is already there.
extern "C" void xattn_switch_stack(void** from, void* to);
asm(R"(
.text
.globl xattn_switch_stack
.type xattn_switch_stack, @function
xattn_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size xattn_switch_stack, .-xattn_switch_stack
)");

static void set_entry(Fiber& fiber, char* stack, void (*entry)()) {
  auto* top = reinterpret_cast<std::uintptr_t*>(stack + kStackBytes);
  *--top = 0;  // where a return address would be: the ABI wants rsp + 8 to be a multiple of 16 at entry
  *--top = reinterpret_cast<std::uintptr_t>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = 0;
  fiber.stack_pointer = top;
}

static void jump(Fiber& from, Fiber& to) { xattn_switch_stack(&from.stack_pointer, to.stack_pointer); }

#else

static void set_entry(Fiber& fiber, char* stack, void (*entry)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber.context, entry, 0);
}

static void jump(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

#endif

void prepare(Fiber& fiber, void (*entry)()) {
  char* stack = map_stack();
  fiber.stack = stack;
  fiber.stack_bytes = kStackBytes;
  set_entry(fiber, stack, entry);
}

void switch_fibers(Fiber& from, Fiber& to) {
  void* fake_stack = nullptr;
  left = &from;
  __sanitizer_start_switch_fiber(&fake_stack, to.stack, to.stack_bytes);
  jump(from, to);
  __sanitizer_finish_switch_fiber(fake_stack, &left->stack, &left->stack_bytes);
}

void arrive() { __sanitizer_finish_switch_fiber(nullptr, &left->stack, &left->stack_bytes); }

}  // namespace xattn::emulator
