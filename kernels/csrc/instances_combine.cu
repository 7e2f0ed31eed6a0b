#include "launch.cuh"

template cudaError_t xattn::launch_combine<xattn::half_t>(const xattn::CombineParams&, cudaStream_t);
template cudaError_t xattn::launch_combine<xattn::bf16_t>(const xattn::CombineParams&, cudaStream_t);
template cudaError_t xattn::launch_merge<xattn::half_t>(const xattn::MergeParams&, cudaStream_t);
template cudaError_t xattn::launch_merge<xattn::bf16_t>(const xattn::MergeParams&, cudaStream_t);
template cudaError_t xattn::launch_merge<float>(const xattn::MergeParams&, cudaStream_t);
