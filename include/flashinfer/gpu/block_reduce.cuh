// Reductions over aligned groups of kGroup threads of a one-dimensional block (the whole block, or several rows in it).
// Every thread receives its group's result; the order is fixed.
#pragma once

#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// Shared memory of one block_reduce: a slot per warp.
template <class T = float>
struct BlockReduceSmem {
  T partial[32];
};

/// All threads of the block call it together when kGroup is more than a warp. Each call first waits until the previous
/// call's readers are done, so one BlockReduceSmem serves a sequence of calls.
template <int kGroup, class T, class Op>
FLASHINFER_DEVICE T block_reduce(T x, Op op, BlockReduceSmem<T>& smem) {
  if constexpr (kGroup <= kWarpSize) {
    return warp_reduce<kGroup>(x, op);
  } else {
    constexpr int kWarps = kGroup / kWarpSize;
    static_assert(kWarps * kWarpSize == kGroup && kWarps <= 32 && (kWarps & (kWarps - 1)) == 0);
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    x = warp_reduce(x, op);
    __syncthreads();  // the previous call's partials have been read
    if (lane == 0) smem.partial[warp] = x;
    __syncthreads();  // all partials are there
    return warp_reduce<kWarps>(smem.partial[warp / kWarps * kWarps + lane % kWarps], op);
  }
}
template <int kGroup>
FLASHINFER_DEVICE float block_sum(float x, BlockReduceSmem<float>& smem) {
  return block_reduce<kGroup>(x, Sum{}, smem);
}
template <int kGroup>
FLASHINFER_DEVICE float block_max(float x, BlockReduceSmem<float>& smem) {
  return block_reduce<kGroup>(x, Max{}, smem);
}

}  // namespace flashinfer::gpu
