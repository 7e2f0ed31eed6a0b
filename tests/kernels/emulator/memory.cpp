// Copies between global and shared memory, and 16-byte accesses of global memory.
#include <cstring>

#include "block.h"
#include "shadow.h"

#define XATTN_WHERE __builtin_return_address(0)

namespace xattn::emulator {
namespace {

constexpr std::size_t kBytes = 16;

void check_alignment(const char* operation, const void* address) {
  if (reinterpret_cast<std::uintptr_t>(address) % kBytes != 0)
    fail("%s: %p is not aligned to 16 bytes", operation, address);
}

void check_places(const void* smem, const void* gmem, bool valid) {
  check_alignment("copy_async_16", smem);
  check_alignment("copy_async_16", gmem);
  if (!is_shared(smem)) fail("copy_async_16: the target is outside of shared memory");
  if (valid && is_shared(gmem)) fail("copy_async_16: the source is in shared memory");
}

void land(const Copy& copy, const void* where) {
  set_under_way(copy.to, kBytes, false);
  note_write(copy.to, kBytes, block.current, where);
  if (copy.from == nullptr) {
    std::memset(copy.to, 0, kBytes);
  } else {
    std::memcpy(copy.to, copy.from, kBytes);
  }
}

}  // namespace

void wait_copies(int in_flight) {
  settle();
  auto& groups = block.thread().groups;
  for (; groups.size() > static_cast<std::size_t>(in_flight); groups.pop_front())
    for (const Copy& copy : groups.front()) land(copy, XATTN_WHERE);
  pause();
}

void drop_copies() {
  for (Thread& thread : block.threads) {
    thread.groups.push_back(std::move(thread.uncommitted));
    for (const auto& group : thread.groups)
      for (const Copy& copy : group) set_under_way(copy.to, kBytes, false);
    thread.groups.clear();
    thread.uncommitted.clear();
  }
}

}  // namespace xattn::emulator

namespace xattn {

using namespace emulator;

// The data arrive when they are waited for, and not before: the latest moment that the device allows itself.
void copy_async_16(void* smem, const void* gmem, bool valid) {
  check_places(smem, gmem, valid);
  settle();
  if (valid) note_read(gmem, kBytes, block.current, XATTN_WHERE);
  note_write(smem, kBytes, block.current, XATTN_WHERE);
  std::memset(smem, 0xff, kBytes);
  set_under_way(smem, kBytes, true);
  block.thread().uncommitted.push_back({static_cast<unsigned char*>(smem), valid ? gmem : nullptr});
  pause();
}

void commit_copies() {
  Thread& thread = block.thread();
  thread.groups.push_back(std::move(thread.uncommitted));
  thread.uncommitted.clear();
  pause();
}

Vec16 load_global_16(const void* gmem) {
  check_alignment("load_global_16", gmem);
  note_read(gmem, kBytes, block.current, XATTN_WHERE);
  Vec16 value;
  std::memcpy(&value, gmem, kBytes);
  return value;
}

void store_global_16(void* gmem, Vec16 value) {
  check_alignment("store_global_16", gmem);
  note_write(gmem, kBytes, block.current, XATTN_WHERE);
  std::memcpy(gmem, &value, kBytes);
}

}  // namespace xattn
