// The blocks that work on one row together: one block, or a cluster of them (SM90). What they tell each other goes through mailboxes in
// each other's shared memory, so a round costs one barrier of the cluster and no trip to L2; sums are of integers, in no order. The blocks
// of a cluster do not begin at the same moment: sync() once before the first round, or a message may find no block (racecheck, H100). After
// a round what a block was sent has arrived, so it may leave, if nobody reads its shared memory beside rounds; else they leave() together.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/ptx/cluster_sm90.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// kWords: of the largest message.
template <int kThreads, int kCluster, int kWords = 2>
class RowGroup {
 public:
  static constexpr int kWarps = kThreads / kWarpSize;
  static_assert(kWarps <= kWarpSize && is_power_of_two(kWarps) && kCluster <= kWarpSize && is_power_of_two(kCluster));

  /// Two of each: what a round writes is still being read by threads that are late in the round before, not in the one before that.
  struct Smem {
    alignas(8) unsigned char mail[2][kCluster][kWords * 8], partial[2][kWarps][kWords * 8];
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
  __device__ Pair sum(uint64_t first, uint64_t second) { return once<Pairs<Sum>>(smem_, next_turn(), {first, second}); }
  __device__ uint64_t sum(uint64_t x) { return once<Single<Sum>>(smem_, next_turn(), {x}).first; }
  __device__ uint64_t max(uint64_t x) { return once<Single<Max>>(smem_, next_turn(), {x}).first; }
  __device__ Pair max(uint64_t first, uint64_t second) { return once<Pairs<Max>>(smem_, next_turn(), {first, second}); }
  /// What the messages of all threads come to: of those of a warp, or fewer, of_warp() makes one; Message{} changes nothing.
  template <class Message>
  __device__ Message all(const Message& message) {
    return reduce<Message>(smem_, next_turn(), message);
  }
  /// Over the threads of this block alone, which meet.
  __device__ uint64_t max_of_block(uint64_t x) {
    return RowGroup<kThreads, 1, kWords>::template once<Single<Max>>(smem_, turn_ ^= kPartial, {x}).first;
  }
  template <class Message>
  __device__ Message all_of_block(const Message& message) {
    return RowGroup<kThreads, 1, kWords>::template reduce<Message>(smem_, turn_ ^= kPartial, message);
  }

 private:
  template <int, int, int>
  friend class RowGroup;
  Smem& smem_;
  int turn_ = 0;  // which of the two was used last, a bit each: rounds of a block leave its mail as it is
  static constexpr int kPartial = 1, kMail = 2;
  __device__ int next_turn() { return turn_ ^= kPartial | kMail; }

  struct Sum {
    __device__ static uint64_t of_warp(uint64_t x) { return warp_sum(x); }
  };
  struct Max {
    __device__ static uint64_t of_warp(uint64_t x) { return warp_max(x); }
  };
  template <class Op>
  struct Single {
    uint64_t first = 0;
    __device__ Single of_warp() const { return {Op::of_warp(first)}; }
  };
  template <class Op>
  struct Pairs : Pair {
    __device__ Pairs(uint64_t first = 0, uint64_t second = 0) : Pair{first, second} {}
    __device__ Pairs of_warp() const { return {Op::of_warp(this->first), Op::of_warp(this->second)}; }
  };

  /// One function for all the calls of a kernel: the instructions of a row's way through it have to be fetched.
  template <class Message, class AnySmem>
  __device__ static __noinline__ Message once(AnySmem& smem, int turn, Message message) {
    return reduce<Message>(smem, turn, message);
  }
  template <class Message, class AnySmem>
  __device__ static Message reduce(AnySmem& smem, int turn, Message x) {
    static_assert(sizeof(Message) <= sizeof(uint64_t) * kWords);
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    x = x.of_warp();
    if (lane == 0) *reinterpret_cast<Message*>(smem.partial[turn & kPartial][warp]) = x;
    __syncthreads();
    if (kCluster == 1 || warp == 0) {
      x = *reinterpret_cast<const Message*>(smem.partial[turn & kPartial][lane % kWarps]);
      if (lane >= kWarps) x = Message{};  // nothing is added twice
      x = x.of_warp();
    }
    if constexpr (kCluster > 1) {
      if (warp == 0 && lane < kCluster) *reinterpret_cast<Message*>(of(smem.mail[turn / kMail][rank()], lane)) = x;
      // What the block wrote before it met is released with the mail: in every warp the fence would wait for that warp's stores.
      if (warp == 0) {
        ptx::cluster_arrive();
      } else {
        ptx::cluster_arrive_relaxed();
      }
      ptx::cluster_wait();
      x = *reinterpret_cast<const Message*>(smem.mail[turn / kMail][lane % kCluster]);
      if (lane >= kCluster) x = Message{};
      x = x.of_warp();
    }
    return x;
  }
};

}  // namespace flashinfer::gpu
