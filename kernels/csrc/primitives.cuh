// Every device intrinsic that the kernels use, behind small functions.
//
// Kernels are templates over these functions and plain C++. nvcc compiles them against this file; with XATTN_EMULATE a
// host compiler compiles the very same kernels against "emulator.h", which must define, in namespace xattn:
//
//   XATTN_KERNEL, XATTN_DEVICE, XATTN_UNROLL   macros: a kernel, a device function, "unroll the next loop"
//   (XATTN_ROLLED, "do not unroll the next loop", and XATTN_UNROLL_BY(times) are defined here for both)
//   XATTN_BOUNDS(threads, blocks)              macro: launch bounds of a kernel
//   XATTN_LAUNCH(kernel, blocks, threads, shared_bytes, stream, params)
//                                              macro, of the host; may come with "cuda_runtime_api.h"
//   half_t, bf16_t                             16-bit storage types; a value of one of them serves as tag
//   Vec16                                      16 bytes, aligned, as `uint32_t word[4]`
//   lane_id() warp_id() thread_id() block_id_x() block_id_y() block_id_z() grid_dim_y()   -> int
//   sync_block() sync_warp()
//   shuffle_xor(float|uint32_t, int mask)  shuffle(float|uint32_t, int source_lane)
//   copy_async_16(void* smem, const void* gmem, bool valid)    16 bytes; zeros, and no read, when not valid
//   commit_copies()  wait_copies<N>()                          N: groups that may stay in flight
//   load_matrix_x4(uint32_t (&r)[4], const void* smem_row)     and _x2, _x4_transposed, _x2_transposed
//   mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], tag)     d += a b
//   fast_exp2(float)  fast_log2(float)
//   round_up(float)                                            to the next whole number, infinities kept
//   pack2(float low, float high, tag) -> uint32_t              round to nearest even
//   unpack2(uint32_t, float& low, float& high, tag)
//   multiply2(uint32_t, uint32_t, tag) -> uint32_t             element by element, rounded to nearest even
//   to_float(half_t|bf16_t|float)  from_float<T>(float)        T: half_t, bf16_t or float
//   dynamic_shared() -> unsigned char*                         16-byte aligned at least (128 on the device)
//   load_global_16(const void*) -> Vec16  store_global_16(void*, Vec16)
//
// Fragment layouts of load_matrix and mma_16816 are those of the PTX manual (ldmatrix .m8n8.b16, mma.m16n8k16).

#pragma once

#ifdef XATTN_EMULATE

#include "emulator.h"

#define XATTN_ROLLED
#define XATTN_UNROLL_BY(times)

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#define XATTN_KERNEL __global__
#define XATTN_DEVICE __device__ __forceinline__
#define XATTN_UNROLL _Pragma("unroll")
#define XATTN_ROLLED _Pragma("unroll 1")
#define XATTN_PRAGMA(text) _Pragma(#text)
#define XATTN_UNROLL_BY(times) XATTN_PRAGMA(unroll times)
#define XATTN_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define XATTN_LAUNCH(kernel, blocks, threads, shared_bytes, stream, params) \
  kernel<<<blocks, threads, shared_bytes, stream>>>(params)

namespace xattn {

using half_t = __half;
using bf16_t = __nv_bfloat16;

struct alignas(16) Vec16 {
  uint32_t word[4];
};

XATTN_DEVICE int thread_id() { return static_cast<int>(threadIdx.x); }
XATTN_DEVICE int lane_id() { return static_cast<int>(threadIdx.x & 31); }
XATTN_DEVICE int warp_id() { return static_cast<int>(threadIdx.x >> 5); }
XATTN_DEVICE int block_id_x() { return static_cast<int>(blockIdx.x); }
XATTN_DEVICE int block_id_y() { return static_cast<int>(blockIdx.y); }
XATTN_DEVICE int block_id_z() { return static_cast<int>(blockIdx.z); }
XATTN_DEVICE int grid_dim_y() { return static_cast<int>(gridDim.y); }

XATTN_DEVICE void sync_block() { __syncthreads(); }
XATTN_DEVICE void sync_warp() { __syncwarp(); }

XATTN_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
XATTN_DEVICE uint32_t shuffle_xor(uint32_t value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
XATTN_DEVICE float shuffle(float value, int source) { return __shfl_sync(0xffffffffu, value, source); }
XATTN_DEVICE uint32_t shuffle(uint32_t value, int source) { return __shfl_sync(0xffffffffu, value, source); }

XATTN_DEVICE uint32_t shared_address(const void* smem) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(smem));
}

XATTN_DEVICE void copy_async_16(void* smem, const void* gmem, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(smem)), "l"(gmem), "r"(bytes)
               : "memory");
}

XATTN_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
XATTN_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

XATTN_DEVICE void load_matrix_x4(uint32_t (&r)[4], const void* smem_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(smem_row))
               : "memory");
}

XATTN_DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], const void* smem_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(smem_row))
               : "memory");
}

XATTN_DEVICE void load_matrix_x2(uint32_t (&r)[2], const void* smem_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(smem_row))
               : "memory");
}

XATTN_DEVICE void load_matrix_x2_transposed(uint32_t (&r)[2], const void* smem_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(smem_row))
               : "memory");
}

XATTN_DEVICE void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], half_t) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

XATTN_DEVICE void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16_t) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

XATTN_DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

XATTN_DEVICE float fast_log2(float x) { return __log2f(x); }
XATTN_DEVICE float round_up(float x) { return ceilf(x); }

XATTN_DEVICE uint32_t pack2(float low, float high, half_t) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

XATTN_DEVICE uint32_t pack2(float low, float high, bf16_t) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

XATTN_DEVICE void unpack2(uint32_t packed, float& low, float& high, half_t) {
  const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&packed));
  low = pair.x;
  high = pair.y;
}

XATTN_DEVICE void unpack2(uint32_t packed, float& low, float& high, bf16_t) {
  low = __uint_as_float(packed << 16);
  high = __uint_as_float(packed & 0xffff0000u);
}

XATTN_DEVICE uint32_t multiply2(uint32_t x, uint32_t y, half_t) {
  const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&x), *reinterpret_cast<const __half2*>(&y));
  return *reinterpret_cast<const uint32_t*>(&product);
}

XATTN_DEVICE uint32_t multiply2(uint32_t x, uint32_t y, bf16_t) {
  const __nv_bfloat162 product =
      __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&x), *reinterpret_cast<const __nv_bfloat162*>(&y));
  return *reinterpret_cast<const uint32_t*>(&product);
}

XATTN_DEVICE float to_float(float x) { return x; }
XATTN_DEVICE float to_float(half_t x) { return __half2float(x); }
XATTN_DEVICE float to_float(bf16_t x) { return __bfloat162float(x); }

template <typename T>
XATTN_DEVICE T from_float(float x);
template <>
XATTN_DEVICE float from_float<float>(float x) {
  return x;
}
template <>
XATTN_DEVICE half_t from_float<half_t>(float x) {
  return __float2half_rn(x);
}
template <>
XATTN_DEVICE bf16_t from_float<bf16_t>(float x) {
  return __float2bfloat16_rn(x);
}

XATTN_DEVICE unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  return shared_bytes;
}

XATTN_DEVICE Vec16 load_global_16(const void* gmem) { return *static_cast<const Vec16*>(gmem); }
XATTN_DEVICE void store_global_16(void* gmem, Vec16 value) { *static_cast<Vec16*>(gmem) = value; }

}  // namespace xattn

#endif
