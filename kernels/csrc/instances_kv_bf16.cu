#include "launch.cuh"

template cudaError_t xattn::launch_kv<xattn::bf16_t>(const xattn::KvParams&, cudaStream_t);
