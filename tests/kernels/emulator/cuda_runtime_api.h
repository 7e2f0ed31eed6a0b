// The little of the CUDA runtime that kernels/csrc/launch.cuh asks for, where launches run in the emulator.
#pragma once

#include <cstdint>

#include "emulator.h"

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
using cudaStream_t = void*;

namespace xattn::emulator {

// Set by the test: what the device is said to have, and what schedules follow from.
inline int shared_bytes_of_device = 227 * 1024;
inline std::uint64_t seed = 0;

template <typename Params>
void launch(void (*kernel)(Params), std::int64_t blocks, int threads, int shared_bytes, const Params& params) {
  const Launch size{static_cast<int>(blocks), 1, 1, threads, static_cast<std::size_t>(shared_bytes)};
  run(size, seed, [&] { kernel(params); });
}

}  // namespace xattn::emulator

#define XATTN_LAUNCH(kernel, blocks, threads, shared_bytes, stream, params) \
  (static_cast<void>(stream), xattn::emulator::launch(kernel, blocks, threads, shared_bytes, params))

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = xattn::emulator::shared_bytes_of_device, cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  return bytes <= xattn::emulator::shared_bytes_of_device ? cudaSuccess : cudaErrorInvalidValue;
}
