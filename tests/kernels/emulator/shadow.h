// Who touched which piece of shared memory since the last barrier.
//
// Two accesses of a piece, one of them a write, by two threads are a race unless a barrier lies between: sync_block,
// or sync_warp where both are lanes of one warp. Operations of a warp (shuffles, ldmatrix, mma) order no memory, as in
// the CUDA programming guide. Pieces are kPieceBytes long, the smallest type of the kernels: two threads that write
// neighbouring bytes of one piece would be reported although they do not race.
#pragma once

#include <cstddef>

namespace xattn::emulator {

constexpr std::size_t kPieceBytes = 2;

// End the process with AddressSanitizer's report where one of the bytes may not be touched.
void check_read(const void* address, std::size_t bytes);
void check_write(const void* address, std::size_t bytes);

// Watches this block's shared memory from now on; null: nothing.
void watch(unsigned char* shared, std::size_t bytes);

bool is_shared(const void* address);

// An access by a thread of the block, made at `where` in the kernel's code. Reports races, what lies under a copy
// that is under way, and, through AddressSanitizer, what is out of bounds.
void note_read(const void* address, std::size_t bytes, int thread, const void* where);
void note_write(void* address, std::size_t bytes, int thread, const void* where);

// Remembers what a read found: see `settle`.
void note_found(const void* address, std::size_t bytes, const void* where);

// Looks again at what the running thread has read since its turn began. Where a thread reads and then writes the same
// place, the compiler calls the hook of the read only; a value that changed since tells of the write.
void settle();

// Between issue and arrival of an asynchronous copy.
void set_under_way(void* address, std::size_t bytes, bool under_way);

// Forgets the copies that the block's threads never waited for.
void drop_copies();

}  // namespace xattn::emulator
