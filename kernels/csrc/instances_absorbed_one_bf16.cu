#include "launch.cuh"

template cudaError_t xattn::launch_absorbed_one<xattn::bf16_t>(const xattn::AbsorbedParams&, int, cudaStream_t);
