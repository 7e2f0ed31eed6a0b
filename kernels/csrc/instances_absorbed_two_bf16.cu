#include "launch.cuh"

template cudaError_t xattn::launch_absorbed_two<xattn::bf16_t>(const xattn::AbsorbedParams&, int, cudaStream_t);
