// Reductions over the lanes of a warp, or over aligned groups of kLanes of them. Every lane receives the result, and the
// order is fixed, so results do not change from run to run.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu {

inline constexpr int kWarpSize = 32;

struct Sum {
  template <class T>
  FLASHINFER_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  FLASHINFER_DEVICE float operator()(float a, float b) const { return fmaxf(a, b); }
  FLASHINFER_DEVICE int operator()(int a, int b) const { return a < b ? b : a; }
};

template <int kLanes = kWarpSize, class T, class Op>
FLASHINFER_DEVICE T warp_reduce(T x, Op op) {
  static_assert(kLanes >= 1 && kLanes <= kWarpSize && (kLanes & (kLanes - 1)) == 0);
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}
template <int kLanes = kWarpSize>
FLASHINFER_DEVICE float warp_sum(float x) {
  return warp_reduce<kLanes>(x, Sum{});
}
template <int kLanes = kWarpSize>
FLASHINFER_DEVICE float warp_max(float x) {
  return warp_reduce<kLanes>(x, Max{});
}

/// Of integers over the whole warp. One instruction a word from Ampere on (REDUX), whose sums are of 32 bits: 64 bits take three of 22. The
/// tests' emulator, a host, has it too.
FLASHINFER_DEVICE uint32_t warp_max(uint32_t x) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  return __reduce_max_sync(0xffffffffu, x);
#else
  return warp_reduce(x, [](uint32_t a, uint32_t b) { return a < b ? b : a; });
#endif
}
FLASHINFER_DEVICE uint32_t warp_sum(uint32_t x) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  return __reduce_add_sync(0xffffffffu, x);
#else
  return warp_reduce(x, Sum{});
#endif
}
FLASHINFER_DEVICE uint64_t warp_max(uint64_t x) {
  const uint32_t high = warp_max(uint32_t(x >> 32)), low = warp_max(uint32_t(x >> 32) == high ? uint32_t(x) : 0u);
  return uint64_t(high) << 32 | low;
}
FLASHINFER_DEVICE uint64_t warp_min(uint64_t x) { return ~warp_max(~x); }
FLASHINFER_DEVICE int warp_sum(int x) { return int(warp_sum(uint32_t(x))); }
FLASHINFER_DEVICE uint64_t warp_sum(uint64_t x) {
  constexpr uint32_t kPart = (1u << 22) - 1;
  return warp_sum(uint32_t(x) & kPart) + (uint64_t(warp_sum(uint32_t(x >> 22) & kPart)) << 22) +
         (uint64_t(warp_sum(uint32_t(x >> 44))) << 44);
}

}  // namespace flashinfer::gpu
