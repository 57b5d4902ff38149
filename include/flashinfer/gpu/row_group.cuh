// The blocks that work on one row together: one block, or a cluster of them (SM90). What they tell each other goes through mailboxes in
// each other's shared memory, so a round costs one barrier of the cluster and no trip to L2; sums are of integers, in no order. The blocks
// of a cluster do not begin at the same moment: sync() once before the first round, or a message may find no block (racecheck, H100). After
// a round what a block was sent has arrived, so it may leave, if nobody reads its shared memory beside rounds; else they leave() together.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/ptx/cluster_sm90.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

template <int kThreads, int kCluster>
class RowGroup {
 public:
  static constexpr int kWarps = kThreads / kWarpSize;
  static_assert(kWarps <= kWarpSize && is_power_of_two(kWarps) && kCluster <= kWarpSize && is_power_of_two(kCluster));

  /// Two of each: what a round writes is still being read by threads that are late in the round before, not in the one before that.
  struct Smem {
    uint64_t mail[2][kCluster][2];
    uint64_t partial[2][kWarps][2];
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
  /// The blocks wait until all of them need each other's shared memory no more. Not for what they have written: a fence would wait until
  /// the whole row has left (1 us of a softmax).
  __device__ static void leave() {
    if constexpr (kCluster > 1) {
      ptx::cluster_arrive_relaxed();
      ptx::cluster_wait();
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

  struct Pair {
    uint64_t first, second;
  };
  /// Over all threads of the group, in every thread. A barrier of the group.
  __device__ Pair sum(uint64_t first, uint64_t second) { return reduce<false, true>(smem_, turn_ ^= 1, {first, second}); }
  __device__ uint64_t sum(uint64_t x) { return reduce<false, false>(smem_, turn_ ^= 1, {x, 0}).first; }
  __device__ uint64_t max(uint64_t x) { return reduce<true, false>(smem_, turn_ ^= 1, {x, 0}).first; }
  __device__ Pair max(uint64_t first, uint64_t second) { return reduce<true, true>(smem_, turn_ ^= 1, {first, second}); }
  /// Over the threads of this block alone, which meet.
  __device__ uint64_t max_of_block(uint64_t x) {
    return RowGroup<kThreads, 1>::template reduce<true, false>(smem_, turn_ ^= 1, {x, 0}).first;
  }

 private:
  template <int, int>
  friend class RowGroup;
  Smem& smem_;
  int turn_ = 0;

  template <bool kMax, bool kPair>
  __device__ static Pair reduce_warp(Pair x) {
    x.first = kMax ? warp_max(x.first) : warp_sum(x.first);
    if (kPair) x.second = kMax ? warp_max(x.second) : warp_sum(x.second);
    return x;
  }
  /// One function for all the calls of a kernel: the instructions of a row's way through it have to be fetched.
  template <bool kMax, bool kPair, class AnySmem>
  __device__ static __noinline__ Pair reduce(AnySmem& smem, int turn, Pair x) {
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    x = reduce_warp<kMax, kPair>(x);
    if (lane == 0) smem.partial[turn][warp][0] = x.first, smem.partial[turn][warp][1] = x.second;
    __syncthreads();
    if (kCluster == 1 || warp == 0) {
      const uint64_t* partial = smem.partial[turn][lane % kWarps];
      const bool counts = kMax || lane < kWarps;  // nothing is added twice
      x = reduce_warp<kMax, kPair>({counts ? partial[0] : 0, kPair && counts ? partial[1] : 0});
    }
    if constexpr (kCluster > 1) {
      if (warp == 0 && lane < kCluster) {
        uint64_t* mail = of(smem.mail[turn][rank()], lane);
        mail[0] = x.first;
        if (kPair) mail[1] = x.second;
      }
      // What the block wrote before it met is released with the mail: in every warp the fence would wait for that warp's stores.
      if (warp == 0) {
        ptx::cluster_arrive();
      } else {
        ptx::cluster_arrive_relaxed();
      }
      ptx::cluster_wait();
      const uint64_t* mail = smem.mail[turn][lane % kCluster];
      const bool counts = kMax || lane < kCluster;
      x = reduce_warp<kMax, kPair>({counts ? mail[0] : 0, kPair && counts ? mail[1] : 0});
    }
    return x;
  }
};

}  // namespace flashinfer::gpu
