// The kernels' primitives on the host: what kernels/csrc/primitives.cuh includes under XATTN_EMULATE.
//
// A launch runs one block after the other, in a random order. The threads of a block are fibers on one host thread; a
// thread runs up to its next primitive, and there the next warp is chosen at random, by a seed. Found and reported,
// with the place in the kernel's source, before the process ends with kFaultStatus:
//
//   * races: shared memory that two threads touch, one of them writing, with no barrier between (sync_block for two
//     warps, sync_warp for lanes of one); every access counts, as AddressSanitizer's hooks see it (hooks.cpp)
//   * reading, or writing, where an asynchronous copy is under way that its thread has not waited for
//   * barriers and warp operations that some threads never reach
//   * misaligned and misplaced addresses
//
// AddressSanitizer finds the rest: shared memory is a heap block of exactly the launch's size, new for every block.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "half.h"

#define XATTN_KERNEL
#define XATTN_DEVICE inline
#define XATTN_UNROLL
#define XATTN_BOUNDS(threads, blocks)

namespace xattn {

struct alignas(16) Vec16 {
  std::uint32_t word[4];
};

int thread_id();
int lane_id();
int warp_id();
int block_id_x();
int block_id_y();
int block_id_z();
int grid_dim_y();

void sync_block();
void sync_warp();

float shuffle_xor(float value, int mask);
std::uint32_t shuffle_xor(std::uint32_t value, int mask);
float shuffle(float value, int source_lane);
std::uint32_t shuffle(std::uint32_t value, int source_lane);

void load_matrix_x2(std::uint32_t (&r)[2], const void* smem_row);
void load_matrix_x2_transposed(std::uint32_t (&r)[2], const void* smem_row);
void load_matrix_x4(std::uint32_t (&r)[4], const void* smem_row);
void load_matrix_x4_transposed(std::uint32_t (&r)[4], const void* smem_row);

void mma_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], half_t);
void mma_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], bf16_t);

void copy_async_16(void* smem, const void* gmem, bool valid);
void commit_copies();

namespace emulator {
void wait_copies(int in_flight);
}

template <int N>
inline void wait_copies() {
  emulator::wait_copies(N);
}

unsigned char* dynamic_shared();
Vec16 load_global_16(const void* gmem);
void store_global_16(void* gmem, Vec16 value);

// As the device's ex2.approx.ftz: what would be subnormal is zero.
inline float fast_exp2(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}

inline float fast_log2(float x) { return std::log2(x); }
inline float round_up(float x) { return std::ceil(x); }

namespace emulator {

constexpr int kFaultStatus = 70;

struct Launch {
  int grid_x = 1, grid_y = 1, grid_z = 1;
  int threads = 32;  // of a block; a multiple of 32
  std::size_t shared_bytes = 0;
};

// Runs `kernel`, a call of a kernel with its arguments, as every thread of every block. Schedules follow from the seed.
void run(const Launch& launch, std::uint64_t seed, const std::function<void()>& kernel);

}  // namespace emulator
}  // namespace xattn
