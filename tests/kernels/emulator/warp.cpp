// What the lanes of a warp do together.
#include <cstring>

#include "block.h"
#include "fragments.h"
#include "shadow.h"

#define XATTN_WHERE __builtin_return_address(0)

namespace xattn::emulator {
namespace {

constexpr std::size_t kRowBytes = 16;  // a row of ldmatrix: eight 16-bit elements

void run_sync(Warp& warp) { ++warp.epoch; }
constexpr WarpOperation kSyncWarp{"sync_warp", run_sync};

void run_shuffle(Warp& warp) {
  for (const Slot& slot : warp.slots) std::memcpy(slot.out, warp.slots[slot.parameter & (kLanes - 1)].in, 4);
}
constexpr WarpOperation kShuffle{"shuffle", run_shuffle};

template <typename Value>
Value exchange(Value value, int source, const void* where) {
  Value received;
  join(kShuffle, {&value, nullptr, &received, source, 0, where});
  return received;
}

const unsigned char* checked_row(const Slot& slot) {
  const int lane = slot.thread % kLanes;
  if (reinterpret_cast<std::uintptr_t>(slot.in) % kRowBytes != 0)
    fail("ldmatrix: lane %d gives a row that is not aligned to 16 bytes", lane);
  note_read(slot.in, kRowBytes, slot.thread, slot.where);
  if (!is_shared(slot.in)) fail("ldmatrix: lane %d gives a row outside of shared memory", lane);
  return static_cast<const unsigned char*>(slot.in);
}

template <int kMatrices, bool kTransposed>
void run_load(Warp& warp) {
  const unsigned char* rows[8 * kMatrices];
  for (int row = 0; row < 8 * kMatrices; ++row) rows[row] = checked_row(warp.slots[row]);
  for (int lane = 0; lane < kLanes; ++lane) {
    auto* out = static_cast<std::uint16_t*>(warp.slots[lane].out);
    for (int element = 0; element < 2 * kMatrices; ++element) {
      const Place place = place_in_loaded(lane, element % 2, kTransposed);
      std::memcpy(out + element, rows[element / 2 * 8 + place.row] + 2 * place.column, 2);
    }
  }
}

template <int kMatrices, bool kTransposed>
constexpr WarpOperation kLoad{kTransposed ? "load_matrix_transposed" : "load_matrix", run_load<kMatrices, kTransposed>};

template <typename T>
float element_of(const void* registers, int element) {
  return to_float(T{static_cast<const std::uint16_t*>(registers)[element]});
}

template <typename T>
void run_mma(Warp& warp) {
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const Slot& slot = warp.slots[lane];
    for (int i = 0; i < 8; ++i) a[place_in_a(lane, i).row][place_in_a(lane, i).column] = element_of<T>(slot.in, i);
    for (int i = 0; i < 4; ++i) b[place_in_b(lane, i).row][place_in_b(lane, i).column] = element_of<T>(slot.in2, i);
    for (int i = 0; i < 4; ++i)
      d[place_in_c(lane, i).row][place_in_c(lane, i).column] = static_cast<const float*>(slot.out)[i];
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i)
      static_cast<float*>(warp.slots[lane].out)[i] = d[place_in_c(lane, i).row][place_in_c(lane, i).column];
}

template <typename T>
constexpr WarpOperation kMma{"mma", run_mma<T>};

}  // namespace
}  // namespace xattn::emulator

namespace xattn {

using namespace emulator;

void sync_warp() { join(kSyncWarp, {}); }

float shuffle_xor(float value, int mask) { return exchange(value, lane_id() ^ mask, XATTN_WHERE); }
std::uint32_t shuffle_xor(std::uint32_t value, int mask) { return exchange(value, lane_id() ^ mask, XATTN_WHERE); }
float shuffle(float value, int source_lane) { return exchange(value, source_lane, XATTN_WHERE); }
std::uint32_t shuffle(std::uint32_t value, int source_lane) { return exchange(value, source_lane, XATTN_WHERE); }

void load_matrix_x2(std::uint32_t (&r)[2], const void* row) {
  join(kLoad<2, false>, {row, nullptr, r, 0, 0, XATTN_WHERE});
}

void load_matrix_x4(std::uint32_t (&r)[4], const void* row) {
  join(kLoad<4, false>, {row, nullptr, r, 0, 0, XATTN_WHERE});
}

void load_matrix_x2_transposed(std::uint32_t (&r)[2], const void* row) {
  join(kLoad<2, true>, {row, nullptr, r, 0, 0, XATTN_WHERE});
}

void load_matrix_x4_transposed(std::uint32_t (&r)[4], const void* row) {
  join(kLoad<4, true>, {row, nullptr, r, 0, 0, XATTN_WHERE});
}

void mma_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], half_t) {
  join(kMma<half_t>, {a, b, d, 0, 0, XATTN_WHERE});
}

void mma_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], bf16_t) {
  join(kMma<bf16_t>, {a, b, d, 0, 0, XATTN_WHERE});
}

}  // namespace xattn
