// What the blocks of a cluster send the first of them: their candidates of top-k, and what follows from all elements they have seen. Of
// each as many bytes, by how many are wanted and whatever it has found, so that the first waits for them alone and nobody for the cluster's
// barrier, whose fences take longer than the way. What a block has more is fetched, and the block stays until then. (racecheck does not
// follow bytes that barriers of other blocks count: it reports the reads of send() and for_each().)
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/ptx/cluster_sm90.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// Shared memory of each block; the first block's is written to.
template <int kThreads, int kCluster, int kSlots, bool kSums>
struct TopkInbox {
  static constexpr int kWarps = kThreads / kWarpSize;
  static_assert(kSlots <= kThreads && kCluster <= kWarpSize);

  uint64_t candidates[kCluster][kSlots];
  uint64_t counts[kCluster], bounds[kCluster];
  float2 sums[kSums ? kCluster * kWarps : 1];  // of warps, and their units
  ptx::Mbarrier full, fetched;

  /// For a block's candidates where k are wanted of all: for twice its share, which is what its bound lets in of a few (TopkSample).
  static __device__ int slots_of(int k) {
    constexpr int kLeast = min(512 / kCluster, kSlots);
    return kLeast == kSlots ? kSlots : clamp(round_up(ceil_div(2 * min(k, kSlots * kCluster), kCluster), kWarpSize), kLeast, kSlots);
  }

  /// The blocks begin to meet: they may send when all have begun. Every thread, before the dependency wait; meet() follows in each.
  __device__ void begin(int k) {
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(&full, 1);
      ptx::mbarrier_init(&fetched, 1);
      ptx::mbarrier_init_fence();
      ptx::mbarrier_arrive_expect(&full, uint32_t(kCluster * (slots_of(k) * 8 + 16 + (kSums ? kWarps * 8 : 0))));  // in the first block
    }
    __syncwarp();
    ptx::cluster_arrive_relaxed();
  }
  static __device__ void meet() { ptx::cluster_wait(); }

  /// From block `rank` to the first: the first of its `count` candidates, all elements that reach its bound. When they are complete.
  __device__ void send(int rank, int slots, const uint64_t* list, int count, uint64_t bound, float2 sum) {
    const int i = int(threadIdx.x);
    if (i < slots) ptx::cluster_send(&candidates[rank][i], i < count ? list[i] : uint64_t(0), &full, 0);
    if (kSums && i % kWarpSize == 0) ptx::cluster_send(&sums[rank * kWarps + i / kWarpSize], sum, &full, 0);
    if (i == 0) {
      if (count > slots) ptx::cluster_fence();  // the list is read there
      ptx::cluster_send(&counts[rank], uint64_t(count), &full, 0);
      ptx::cluster_send(&bounds[rank], bound, &full, 0);
    }
    if (rank > 0 && count > slots) ptx::cluster_receive(&fetched, 0);
  }

  /// In the first block: waits for all. The greatest of the bounds.
  __device__ uint64_t receive() {
    ptx::cluster_receive(&full, 0);
    const int lane = int(threadIdx.x) % kWarpSize;
    return warp_max(lane < kCluster ? bounds[lane] : uint64_t(0));
  }
  /// How many of the first block's own candidates stay in its list, for they have no room here: all or none.
  __device__ int stay(int slots) const { return int(counts[0]) > slots ? int(counts[0]) : 0; }
  /// How many others there are.
  __device__ int size(int slots) const {
    const int lane = int(threadIdx.x) % kWarpSize;
    return warp_sum(lane < kCluster ? int(counts[lane]) : 0) - stay(slots);
  }
  /// f(candidate, its place among them) for the others, each in one thread. `list`: where every block has its own. So many of a
  /// thread's are under way at once, where they are fetched.
  template <int kAtOnce, class F>
  __device__ void for_each(uint64_t* list, int slots, const F& f) const {
    // As many threads for each block's as there are: what is fetched takes 500 clocks a turn.
    constexpr int kReaders = max(kThreads / kCluster / kWarpSize, 1) * kWarpSize;
#pragma unroll 1
    for (int rank = int(threadIdx.x) / kReaders; rank < kCluster; rank += kThreads / kReaders) {
      const int count = int(counts[rank]), first = int(threadIdx.x) % kReaders, lane = int(threadIdx.x) % kWarpSize;
      const int before = warp_sum(lane < rank ? int(counts[lane]) : 0) - (rank > 0 ? stay(slots) : 0);
      if (count <= slots) {
#pragma unroll 1
        for (int i = first; i < count; i += kReaders) f(candidates[rank][i], before + i);
      } else if (rank > 0) {
        const uint64_t* theirs = ptx::cluster_map(list, uint32_t(rank));
#pragma unroll 1
        for (int i = first; i < count; i += kAtOnce * kReaders) {
          uint64_t held[kAtOnce];
#pragma unroll
          for (int j = 0; j < kAtOnce; ++j) held[j] = theirs[min(i + j * kReaders, count - 1)];
#pragma unroll
          for (int j = 0; j < kAtOnce; ++j)
            if (i + j * kReaders < count) f(held[j], before + i + j * kReaders);
        }
      }
    }
  }
  /// Blocks whose lists were read may leave. After a barrier.
  __device__ void let_go(int slots) {
    const int rank = int(threadIdx.x);
    const bool other = rank > 0 && rank < kCluster;
    if (other && counts[rank] > uint64_t(slots)) ptx::cluster_arrive_at(&fetched, uint32_t(rank));
  }
};

}  // namespace flashinfer::gpu
