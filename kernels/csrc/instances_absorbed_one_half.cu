#include "launch.cuh"

template cudaError_t xattn::launch_absorbed_one<xattn::half_t>(const xattn::AbsorbedParams&, int, cudaStream_t);
