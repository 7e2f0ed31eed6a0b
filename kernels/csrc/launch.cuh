// What launch.h declares, for instances_*.cu to instantiate.

#pragma once

#include "combine.cuh"
#include "launch.h"
#include "xattn_absorbed_one.cuh"
#include "xattn_absorbed_two.cuh"
#include "xattn_kv.cuh"

namespace xattn {

template <typename Params>
cudaError_t launch_blocks(void (*kernel)(Params), int64_t blocks, int threads, int shared_bytes, const Params& params,
                          cudaStream_t stream) {
  if (blocks == 0) return cudaSuccess;
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return error;
  }
  XATTN_LAUNCH(kernel, static_cast<unsigned>(blocks), threads, shared_bytes, stream, params);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_kv(const KvParams& params, cudaStream_t stream) {
  return launch_blocks(xattn_kv_kernel<T>, params.rows.num_items, kKvThreads, kKvSharedBytes, params, stream);
}

template <typename T, int Width>
cudaError_t launch_two(const AbsorbedParams& params, cudaStream_t stream) {
  const int64_t items = params.rows.num_items;
  const cudaError_t error = launch_blocks(absorbed_scores_kernel<T, Width>, items * params.item_tiles, kTwoThreads,
                                          kTwoSharedBytes, params, stream);
  if (error != cudaSuccess) return error;
  return launch_blocks(absorbed_mix_kernel<T, Width>, items * (Width / kTwoColumns), kTwoThreads, kTwoSharedBytes,
                       params, stream);
}

template <typename T>
cudaError_t launch_absorbed_two(const AbsorbedParams& params, int width, cudaStream_t stream) {
  switch (width) {
    case 384:
      return launch_two<T, 384>(params, stream);
    case 768:
      return launch_two<T, 768>(params, stream);
    case 1024:
      return launch_two<T, 1024>(params, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename T, typename Shape>
cudaError_t launch_one(const AbsorbedParams& params, cudaStream_t stream) {
  return launch_blocks(absorbed_one_kernel<T, Shape>, params.rows.num_items, kOneThreads, Shape::kSharedBytes, params,
                       stream);
}

// The roomier of two shapes that the device's shared memory holds.
template <typename T, typename Roomy, typename Narrow>
cudaError_t launch_one_fitting(const AbsorbedParams& params, cudaStream_t stream) {
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  if (Roomy::kSharedBytes <= most) return launch_one<T, Roomy>(params, stream);
  if (Narrow::kSharedBytes <= most) return launch_one<T, Narrow>(params, stream);
  return cudaErrorInvalidValue;
}

template <typename T>
cudaError_t launch_absorbed_one(const AbsorbedParams& params, int width, cudaStream_t stream) {
  switch (width) {
    case 384:
      return launch_one_fitting<T, OneShape384, OneShape384>(params, stream);
    case 768:
      return launch_one_fitting<T, OneShape768, OneShape768Narrow>(params, stream);
    case 1024:
      return launch_one_fitting<T, OneShape1024, OneShape1024Narrow>(params, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename T>
cudaError_t launch_combine(const CombineParams& params, cudaStream_t stream) {
  const int64_t pieces = params.rows * (params.width / 2);
  return launch_blocks(combine_kernel<T>, (pieces + kCombineThreads - 1) / kCombineThreads, kCombineThreads, 0, params,
                       stream);
}

template <typename T>
cudaError_t launch_merge(const MergeParams& params, cudaStream_t stream) {
  const int64_t pieces = params.rows * params.width;
  return launch_blocks(merge_kernel<T>, (pieces + kCombineThreads - 1) / kCombineThreads, kCombineThreads, 0, params,
                       stream);
}

}  // namespace xattn
