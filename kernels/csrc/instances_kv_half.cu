#include "launch.cuh"

template cudaError_t xattn::launch_kv<xattn::half_t>(const xattn::KvParams&, cudaStream_t);
