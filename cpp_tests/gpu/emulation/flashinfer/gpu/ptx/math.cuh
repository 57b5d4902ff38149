// Emulated gpu/ptx/math.cuh.
#pragma once

#include <cmath>

namespace flashinfer::gpu::ptx {

inline float ex2(float x) { return std::exp2(x); }
inline float lg2(float x) { return std::log2(x); }
inline float rcp(float x) { return 1.0f / x; }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline float tanh(float x) { return std::tanh(x); }

}  // namespace flashinfer::gpu::ptx
