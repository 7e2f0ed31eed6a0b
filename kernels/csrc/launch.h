// Launching kernels on a stream. T is half_t or bf16_t (merge also float); instances_*.cu say which exist.

#pragma once

#include <cuda_runtime_api.h>

#include "plan.h"

namespace xattn {

template <typename T>
cudaError_t launch_kv(const KvParams& params, cudaStream_t stream);

// cudaErrorInvalidValue: no instance of this width.
template <typename T>
cudaError_t launch_absorbed_two(const AbsorbedParams& params, int width, cudaStream_t stream);

// cudaErrorInvalidValue: no instance of this width, or the device has too little shared memory for it.
template <typename T>
cudaError_t launch_absorbed_one(const AbsorbedParams& params, int width, cudaStream_t stream);

template <typename T>
cudaError_t launch_combine(const CombineParams& params, cudaStream_t stream);

template <typename T>
cudaError_t launch_merge(const MergeParams& params, cudaStream_t stream);

}  // namespace xattn
