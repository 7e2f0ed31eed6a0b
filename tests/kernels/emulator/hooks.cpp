// AddressSanitizer's hooks: the kernels are compiled so that it is called, not inlined, at every load and store, and
// linked so that the calls come here first (tests/kernel_emulator.py has both options).
#include <cstdint>

#include "block.h"
#include "shadow.h"

extern "C" {
void __real___asan_loadN(std::uintptr_t address, std::size_t bytes);
void __real___asan_storeN(std::uintptr_t address, std::size_t bytes);
}

namespace xattn::emulator {

void check_read(const void* address, std::size_t bytes) {
  __real___asan_loadN(reinterpret_cast<std::uintptr_t>(address), bytes);
}

void check_write(const void* address, std::size_t bytes) {
  __real___asan_storeN(reinterpret_cast<std::uintptr_t>(address), bytes);
}

namespace {

inline void loaded(std::uintptr_t address, std::size_t bytes, const void* where) {
  const auto* at = reinterpret_cast<const void*>(address);
  if (!is_shared(at)) return;
  note_read(at, bytes, block.current, where);
  note_found(at, bytes, where);
}

inline void stored(std::uintptr_t address, std::size_t bytes, const void* where) {
  auto* at = reinterpret_cast<void*>(address);
  if (is_shared(at)) note_write(at, bytes, block.current, where);
}

}  // namespace
}  // namespace xattn::emulator

#define XATTN_HOOK(kind, past, bytes)                                            \
  extern "C" void __real___asan_##kind##bytes(std::uintptr_t address);           \
  extern "C" void __wrap___asan_##kind##bytes(std::uintptr_t address) {          \
    xattn::emulator::past(address, bytes, __builtin_return_address(0));          \
    __real___asan_##kind##bytes(address);                                        \
  }

#define XATTN_HOOKS(kind, past)                                                             \
  XATTN_HOOK(kind, past, 1)                                                                 \
  XATTN_HOOK(kind, past, 2)                                                                 \
  XATTN_HOOK(kind, past, 4)                                                                 \
  XATTN_HOOK(kind, past, 8)                                                                 \
  XATTN_HOOK(kind, past, 16)                                                                \
  extern "C" void __wrap___asan_##kind##N(std::uintptr_t address, std::size_t bytes) {      \
    xattn::emulator::past(address, bytes, __builtin_return_address(0));                     \
    __real___asan_##kind##N(address, bytes);                                                \
  }

XATTN_HOOKS(load, loaded)
XATTN_HOOKS(store, stored)
