#include "block.h"

#include <sanitizer/common_interface_defs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>

#include "shadow.h"

namespace xattn::emulator {

Block block;

namespace {

constexpr std::align_val_t kSharedAlignment{128};

Fiber host;
const std::function<void()>* kernel = nullptr;
std::uint64_t random_state = 0;
int first_lane = 0;

// splitmix64 (Steele, Lea, Flood 2014).
std::uint64_t random_bits() {
  std::uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

int random_below(int bound) { return static_cast<int>(random_bits() % static_cast<std::uint64_t>(bound)); }

int count(State state) {
  int found = 0;
  for (int id = 0; id < block.launch.threads; ++id) found += block.threads[static_cast<std::size_t>(id)].state == state;
  return found;
}

[[noreturn]] void fail_of_deadlock() {
  const char* operation = "none";
  for (const Warp& warp : block.warps)
    if (warp.arrived > 0) operation = warp.operation->name;
  fail("deadlock: %d threads wait in sync_block and %d in an operation of their warp (%s), %d have returned",
       count(State::kAtBarrier), count(State::kAtWarpOperation), operation, count(State::kReturned));
}

void open_barrier() {
  ++block.epoch;
  block.at_barrier = 0;
  for (Warp& warp : block.warps) warp.ready = ~0u;
}

// The warp that goes on: the current one while it has lanes to run, then any.
std::size_t next_warp(bool stay) {
  const auto current = static_cast<std::size_t>(block.current / kLanes);
  if (stay && block.warps[current].ready != 0) return current;
  if (block.at_barrier == block.launch.threads) open_barrier();
  std::vector<std::size_t> ready;
  for (std::size_t warp = 0; warp < block.warps.size(); ++warp)
    if (block.warps[warp].ready != 0) ready.push_back(warp);
  if (ready.empty()) fail_of_deadlock();
  first_lane = random_below(kLanes);
  return ready[static_cast<std::size_t>(random_below(static_cast<int>(ready.size())))];
}

int next_thread(bool stay) {
  const std::size_t warp = next_warp(stay);
  std::uint32_t& ready = block.warps[warp].ready;
  const std::uint32_t turned = first_lane == 0 ? ready : ready >> first_lane | ready << (kLanes - first_lane);
  const int lane = (__builtin_ctz(turned) + first_lane) % kLanes;
  ready &= ~(1u << lane);
  return static_cast<int>(warp) * kLanes + lane;
}

void hand_over(bool stay) {
  settle();
  Fiber& from = block.thread().fiber;
  if (block.returned == block.launch.threads) return switch_fibers(from, host);
  block.current = next_thread(stay);
  block.thread().state = State::kRunning;
  if (&block.thread().fiber != &from) switch_fibers(from, block.thread().fiber);
}

void wait(State state) {
  block.thread().state = state;
  hand_over(true);
}

void live() {
  arrive();
  for (;;) {
    (*kernel)();
    ++block.returned;
    wait(State::kReturned);
  }
}

void start_threads() {
  const auto threads = static_cast<std::size_t>(block.launch.threads);
  while (block.threads.size() < threads) prepare(block.threads.emplace_back().fiber, live);
  block.warps.assign(threads / kLanes, Warp{});
  block.returned = block.at_barrier = 0;
  ++block.epoch;
  open_barrier();
}

void run_block(int index) {
  const Launch& launch = block.launch;
  block.x = index % launch.grid_x;
  block.y = index / launch.grid_x % launch.grid_y;
  block.z = index / launch.grid_x / launch.grid_y;
  block.shared = static_cast<unsigned char*>(::operator new(launch.shared_bytes, kSharedAlignment));
  std::memset(block.shared, 0xff, launch.shared_bytes);  // NaN in every type: what nobody wrote spoils what uses it
  watch(block.shared, launch.shared_bytes);
  start_threads();
  block.current = next_thread(false);
  switch_fibers(host, block.thread().fiber);
  drop_copies();
  watch(nullptr, 0);
  ::operator delete(block.shared, kSharedAlignment);
}

}  // namespace

void join(const WarpOperation& operation, Slot slot) {
  Warp& warp = block.warp();
  if (warp.arrived > 0 && warp.operation != &operation)
    fail("lanes of one warp part: some are in %s, this one in %s", warp.operation->name, operation.name);
  warp.operation = &operation;
  slot.thread = block.current;
  warp.slots[block.current % kLanes] = slot;
  if (++warp.arrived == kLanes) {
    settle();
    operation.run(warp);
    warp.arrived = 0;
    warp.ready = ~0u;
  }
  wait(State::kAtWarpOperation);
}

void pause() {
  if (random_below(4) != 0) return;
  block.warp().ready |= 1u << block.current % kLanes;
  hand_over(false);
}

void fail(const char* format, ...) {
  std::fprintf(stderr, "xattn emulator: block (%d, %d, %d), thread %d: ", block.x, block.y, block.z, block.current);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n");
  __sanitizer_print_stack_trace();
  std::fflush(stderr);
  _exit(kFaultStatus);
}

void run(const Launch& launch, std::uint64_t seed, const std::function<void()>& call) {
  if (launch.threads < kLanes || launch.threads % kLanes != 0 || launch.threads > 1024)
    fail("%d threads in a block: they must be whole warps, at most 1024", launch.threads);
  block.launch = launch;
  kernel = &call;
  random_state = seed;
  std::vector<int> order(static_cast<std::size_t>(launch.grid_x) * launch.grid_y * launch.grid_z);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto at = static_cast<std::size_t>(random_below(static_cast<int>(i) + 1));
    order[i] = order[at];
    order[at] = static_cast<int>(i);
  }
  for (const int index : order) run_block(index);
}

}  // namespace xattn::emulator

namespace xattn {

using emulator::block;

int thread_id() { return block.current; }
int lane_id() { return block.current % emulator::kLanes; }
int warp_id() { return block.current / emulator::kLanes; }
int block_id_x() { return block.x; }
int block_id_y() { return block.y; }
int block_id_z() { return block.z; }
int grid_dim_y() { return block.launch.grid_y; }
unsigned char* dynamic_shared() { return block.shared; }

void sync_block() {
  ++block.at_barrier;
  emulator::wait(emulator::State::kAtBarrier);
}

}  // namespace xattn
