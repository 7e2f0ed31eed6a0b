// Stacks that take turns on one host thread: one for each thread of a block.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace xattn::emulator {

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  const void* stack = nullptr;  // lowest address; of the host's own stack known after the first switch away from it
  std::size_t stack_bytes = 0;
};

// Gives the fiber a stack with an inaccessible page below it; `entry` runs at the first switch to it and never returns.
void prepare(Fiber& fiber, void (*entry)());

// Goes on where `to` stopped; returns when something switches back to `from`.
void switch_fibers(Fiber& from, Fiber& to);

// To be called first thing in a fiber's `entry`.
void arrive();

}  // namespace xattn::emulator
