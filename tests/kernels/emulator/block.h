// One block at a time: its threads, whose turn it is, and what a warp does together.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "emulator.h"
#include "fiber.h"

namespace xattn::emulator {

constexpr int kLanes = 32;

// What a lane hands to an operation of its whole warp.
struct Slot {
  const void* in = nullptr;
  const void* in2 = nullptr;
  void* out = nullptr;
  int parameter = 0;
  int thread = 0;
  const void* where = nullptr;  // in the kernel's code
};

struct Warp;

// An operation that all lanes of a warp must reach; it runs when the last has come.
struct WarpOperation {
  const char* name;
  void (*run)(Warp&);
};

struct Warp {
  std::uint32_t ready = 0;  // bit by lane: may run on
  std::uint32_t epoch = 0;  // sync_warps done
  const WarpOperation* operation = nullptr;
  int arrived = 0;
  Slot slots[kLanes];
};

struct Copy {
  unsigned char* to;
  const void* from;  // null: zeros
};

enum class State { kRunning, kAtWarpOperation, kAtBarrier, kReturned };

struct Thread {
  Fiber fiber;
  State state = State::kRunning;
  std::vector<Copy> uncommitted;
  std::deque<std::vector<Copy>> groups;  // committed and not waited for, oldest first
};

struct Block {
  Launch launch;
  int x = 0, y = 0, z = 0;
  unsigned char* shared = nullptr;
  std::uint32_t epoch = 0;  // barriers done, by all blocks of the process: what an earlier block did is long past
  int at_barrier = 0;
  int returned = 0;
  int current = 0;  // thread
  std::vector<Warp> warps;
  std::deque<Thread> threads;  // kept from block to block: fibers never move

  Thread& thread() { return threads[static_cast<std::size_t>(current)]; }
  Warp& warp() { return warps[static_cast<std::size_t>(current / kLanes)]; }
};

extern Block block;

// Joins the other lanes of the warp in an operation; returns when it has run and the thread has its turn again.
void join(const WarpOperation& operation, Slot slot);

// Lets others go first now and then, so that what lies between two warp operations is interleaved, too.
void pause();

// Says what the kernel did wrong, and where, and ends the process.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace xattn::emulator
