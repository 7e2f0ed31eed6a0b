#include "shadow.h"

#include <sanitizer/common_interface_defs.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "block.h"

namespace xattn::emulator {
namespace {

constexpr int kMany = -1;

struct Access {
  std::uint32_t block_epoch = 0;
  std::uint32_t warp_epoch = 0;
  int warp = 0;  // kMany: of several warps
  int lane = 0;  // kMany: of several lanes
  const void* where = nullptr;
};

struct Piece {
  Access write;  // the last
  Access read;   // those since the last barrier, as one
  bool under_way = false;
};

struct Found {
  const void* address;
  std::size_t bytes;
  const void* where;
  unsigned char value[16];
};

unsigned char* base = nullptr;
std::size_t size = 0;
std::vector<Piece> pieces;  // grows to the largest block's need and is never cleared: epochs outdate it
std::vector<Found> found;

Access access_now(int thread, const void* where) {
  const auto warp = static_cast<std::size_t>(thread / kLanes);
  return {block.epoch, block.warps[warp].epoch, thread / kLanes, thread % kLanes, where};
}

bool races(const Access& before, const Access& now) {
  if (before.block_epoch != now.block_epoch) return false;
  if (before.warp != now.warp) return true;
  return before.warp_epoch == now.warp_epoch && before.lane != now.lane;
}

void add_read(Access& reads, const Access& now) {
  if (reads.block_epoch != now.block_epoch) {
    reads = now;
  } else if (reads.warp != now.warp) {
    reads.warp = kMany;
  } else if (reads.warp_epoch != now.warp_epoch) {
    reads = now;  // what earlier lanes read is ordered before anything this warp does, and other warps race anyway
  } else if (reads.lane != now.lane) {
    reads.lane = kMany;
  }
}

std::string place(const void* where) {
  char text[512] = "";
  __sanitizer_symbolize_pc(const_cast<void*>(where), "%f %s:%l", text, sizeof text);
  return text;
}

std::string who(const Access& access) {
  if (access.warp == kMany) return "threads of several warps, the first at " + place(access.where) + ",";
  const std::string warp = "warp " + std::to_string(access.warp);
  if (access.lane == kMany) return "lanes of " + warp + ", the first at " + place(access.where) + ",";
  return warp + ", lane " + std::to_string(access.lane) + ", at " + place(access.where);
}

[[noreturn]] void fail_of_race(std::size_t piece, const Access& now, const char* verb, const Access& before,
                               const char* verb_before) {
  fail("race in shared memory, byte %zu: %s %s what %s %s, and no barrier lies between", piece * kPieceBytes,
       who(now).c_str(), verb, who(before).c_str(), verb_before);
}

void read_piece(std::size_t index, const Access& now) {
  Piece& piece = pieces[index];
  if (piece.under_way)
    fail("byte %zu of shared memory is read at %s, but the copy issued at %s was not waited for", index * kPieceBytes,
         place(now.where).c_str(), place(piece.write.where).c_str());
  if (races(piece.write, now)) fail_of_race(index, now, "reads", piece.write, "wrote");
  add_read(piece.read, now);
}

void write_piece(std::size_t index, const Access& now) {
  Piece& piece = pieces[index];
  if (piece.under_way)
    fail("byte %zu of shared memory is written at %s while the copy issued at %s is under way", index * kPieceBytes,
         place(now.where).c_str(), place(piece.write.where).c_str());
  if (races(piece.write, now)) fail_of_race(index, now, "writes", piece.write, "wrote");
  if (races(piece.read, now)) fail_of_race(index, now, "writes", piece.read, "read");
  piece.write = now;
}

std::size_t offset(const void* address) {
  return static_cast<std::size_t>(static_cast<const unsigned char*>(address) - base);
}

// Bounds are AddressSanitizer's to check: pieces end where shared memory ends.
template <typename Visit>
void for_pieces(const void* address, std::size_t bytes, Visit visit) {
  const std::size_t end = std::min(offset(address) + bytes, size);
  for (std::size_t piece = offset(address) / kPieceBytes; piece * kPieceBytes < end; ++piece) visit(piece);
}

}  // namespace

void watch(unsigned char* shared, std::size_t bytes) {
  base = shared;
  size = bytes;
  if (pieces.size() * kPieceBytes < bytes) pieces.resize((bytes + kPieceBytes - 1) / kPieceBytes);
}

bool is_shared(const void* address) { return base != nullptr && offset(address) < size; }

void note_read(const void* address, std::size_t bytes, int thread, const void* where) {
  check_read(address, bytes);
  if (!is_shared(address)) return;
  const Access now = access_now(thread, where);
  for_pieces(address, bytes, [&](std::size_t piece) { read_piece(piece, now); });
}

void note_write(void* address, std::size_t bytes, int thread, const void* where) {
  check_write(address, bytes);
  if (!is_shared(address)) return;
  const Access now = access_now(thread, where);
  for_pieces(address, bytes, [&](std::size_t piece) { write_piece(piece, now); });
}

void note_found(const void* address, std::size_t bytes, const void* where) {
  Found& value = found.emplace_back(Found{address, std::min(bytes, sizeof Found::value), where, {}});
  std::memcpy(value.value, address, value.bytes);
}

void settle() {
  for (const Found& read : found)
    if (std::memcmp(read.address, read.value, read.bytes) != 0)
      note_write(const_cast<void*>(read.address), read.bytes, block.current, read.where);
  found.clear();
}

void set_under_way(void* address, std::size_t bytes, bool under_way) {
  for_pieces(address, bytes, [&](std::size_t piece) { pieces[piece].under_way = under_way; });
}

}  // namespace xattn::emulator
