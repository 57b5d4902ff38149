// Emulated gpu/ptx/math.cuh.
#pragma once

#include <cmath>
#include <cstdint>

namespace flashinfer::gpu::ptx {

inline float ex2(float x) { return std::exp2(x); }
inline float lg2(float x) { return std::log2(x); }
inline float rcp(float x) { return 1.0f / x; }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline float multiply_saturate(float x, float y) {
  const float z = x * y;
  return z > 0 ? std::fmin(z, 1.0f) : 0.0f;
}
struct MulWide {
  uint64_t operator()(uint32_t a, uint32_t b) const { return uint64_t(a) * b; }
};
inline float max_or_nan(float x, float y) { return x != x || y != y ? x + y : std::fmax(x, y); }
inline float tanh(float x) { return std::tanh(x); }

}  // namespace flashinfer::gpu::ptx
