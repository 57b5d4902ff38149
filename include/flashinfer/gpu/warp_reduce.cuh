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

}  // namespace flashinfer::gpu
