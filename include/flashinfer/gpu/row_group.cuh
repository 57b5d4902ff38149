// The blocks that work on one row together: one block, or a cluster of them (SM90). What they tell each other goes through mailboxes in
// each other's shared memory, so a round costs one barrier of the cluster and no trip to L2; sums are of integers, in no order.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/ptx/cluster_sm90.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

template <int kThreads, int kCluster>
class RowGroup {
 public:
  static constexpr int kWarps = kThreads / kWarpSize, kWords = 4;
  static_assert(kWarps <= kWarpSize && is_power_of_two(kWarps));

  /// Two of each: what a round writes is still being read by threads that are late in the round before, not in the one before that.
  struct Smem {
    uint64_t mail[2][kCluster][kWords];
    uint64_t partial[2][kWarps][kWords];
  };

  __device__ explicit RowGroup(Smem& smem) : smem_(smem) {}
  /// Of this block in the group.
  __device__ static int rank() {
    if constexpr (kCluster > 1) return int(ptx::cluster_rank());
    return 0;
  }

  /// All threads of the group meet; what they wrote to each other's shared memory has arrived.
  __device__ static void sync() {
    if constexpr (kCluster > 1) {
      ptx::cluster_sync();
    } else {
      __syncthreads();
    }
  }
  /// An object of shared memory as block `rank` has it.
  template <class T>
  __device__ static T* of(T* shared, int rank) {
    if constexpr (kCluster > 1) {
      return ptx::cluster_map(shared, uint32_t(rank));
    } else {
      return shared;
    }
  }

  /// x[n] = op(n, ...) over all threads of the group, in every thread. A barrier of the group.
  template <int N, class Op>
  __device__ void all_reduce(uint64_t (&x)[N], const Op& op) {
    static_assert(N <= kWords);
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    const int turn = turn_;
    turn_ ^= 1;
#pragma unroll
    for (int n = 0; n < N; ++n) x[n] = warp_reduce(x[n], [&](uint64_t a, uint64_t b) { return op(n, a, b); });
    if (lane == 0) {
#pragma unroll
      for (int n = 0; n < N; ++n) smem_.partial[turn][warp][n] = x[n];
    }
    __syncthreads();
    if (kCluster == 1 || warp == 0) {
#pragma unroll
      for (int n = 0; n < N; ++n)
        x[n] = warp_reduce<kWarps>(smem_.partial[turn][lane % kWarps][n], [&](uint64_t a, uint64_t b) { return op(n, a, b); });
    }
    if constexpr (kCluster > 1) {
      if (warp == 0 && lane < kCluster) {
        uint64_t* to = of(smem_.mail[turn][rank()], lane);
#pragma unroll
        for (int n = 0; n < N; ++n) to[n] = x[n];
      }
      ptx::cluster_sync();
#pragma unroll
      for (int n = 0; n < N; ++n) x[n] = smem_.mail[turn][0][n];
#pragma unroll
      for (int r = 1; r < kCluster; ++r) {
#pragma unroll
        for (int n = 0; n < N; ++n) x[n] = op(n, x[n], smem_.mail[turn][r][n]);
      }
    }
  }
  template <int N>
  __device__ void all_sum(uint64_t (&x)[N]) {
    all_reduce(x, [](int, uint64_t a, uint64_t b) { return a + b; });
  }

 private:
  Smem& smem_;
  int turn_ = 0;
};

}  // namespace flashinfer::gpu
