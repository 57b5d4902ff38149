// The blocks that work on one row together: one block, or a cluster of them (SM90). What they tell each other goes through mailboxes in
// each other's shared memory, so a round costs no trip to L2; sums are of integers, in no order. The blocks of a cluster do not begin at
// the same moment: begin() once before the first round, or a message may find no block (racecheck, H100). After a round what a block was
// sent has arrived, so it may leave, if nobody reads its shared memory beside rounds; else they leave() together.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/ptx/cluster_sm90.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// What blocks have of each other: a barrier of the cluster ends a round where they share memory, and what they wrote before is there.
/// Where rounds are all that they have, everybody waits for the messages alone, which barriers in shared memory count by their bytes, for
/// the cluster's barrier and its fence take longer. H200, us of softmax at 1 / 16 / 32 rows 4.8 / 9.9 / 15.1, by the cluster's 5.3 / 10.2
/// / 15.5. (racecheck does not follow such bytes.)
enum class RowShare { rounds, memory };

/// kWords: of the largest message, of 64 bits.
template <int kThreads, int kCluster, int kWords = 2, RowShare kShare = RowShare::memory>
class RowGroup {
  static constexpr bool kSends = kCluster > 1 && kShare == RowShare::rounds;

 public:
  static constexpr int kWarps = kThreads / kWarpSize;
  static_assert(kWarps <= kWarpSize && is_power_of_two(kWarps) && kCluster <= kWarpSize);

  struct Nothing {};
  struct Full {
    ptx::Mbarrier of_mail[2];
  };
  /// Two of each: what a round writes is still being read by threads that are late in the round before, not in the one before that.
  struct Smem {
    alignas(8) unsigned char mail[2][kCluster][kWords * 8], partial[2][kWarps][kWords * 8];
    conditional_t<kSends, Full, Nothing> full;
  };

  /// The blocks meet, when all have begun; the threads of one that is alone as by __syncthreads().
  static __device__ void begin(Smem& smem) {
    if constexpr (kSends) {
      if (threadIdx.x == 0) {
        for (ptx::Mbarrier& full : smem.full.of_mail) ptx::mbarrier_init(&full, 1);
        ptx::mbarrier_init_fence();
      }
    }
    sync();
  }

  __device__ explicit RowGroup(Smem& smem) : smem_(smem) {}
  RowGroup(const RowGroup&) = default;
  /// As a function leaves it that was given a copy: of the same shared memory.
  __device__ RowGroup& operator=(const RowGroup& after) {
    turn_ = after.turn_;
    return *this;
  }
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
  __device__ uint64_t sum_of_block(uint64_t x) {
    return RowGroup<kThreads, 1, kWords>::template once<Single<Sum>>(smem_, turn_ ^= kPartial, {x}).first;
  }
  template <class Message>
  __device__ Message all_of_block(const Message& message) {
    return RowGroup<kThreads, 1, kWords>::template reduce<Message>(smem_, turn_ ^= kPartial, message);
  }

 private:
  template <int, int, int, RowShare>
  friend class RowGroup;
  Smem& smem_;
  // Which of the two was used last, a bit each: rounds of a block leave its mail as it is. And the parity of each mail's next round.
  int turn_ = 0;
  static constexpr int kPartial = 1, kMail = 2, kParity = 4;
  __device__ static int mail_of(int turn) { return turn / kMail % 2; }
  __device__ int next_turn() {
    const int turn = turn_ ^= kPartial | kMail;
    if constexpr (kSends) turn_ ^= kParity << mail_of(turn);
    return turn;
  }

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
    const int thread = ptx::opaque(int(threadIdx.x));  // what follows from it would be kept from round to round, and spill
    const int lane = thread % kWarpSize, warp = thread / kWarpSize;
    x = x.of_warp();
    if (lane == 0) *reinterpret_cast<Message*>(smem.partial[turn & kPartial][warp]) = x;
    __syncthreads();
    if (kCluster == 1 || warp == 0) {
      x = *reinterpret_cast<const Message*>(smem.partial[turn & kPartial][lane % kWarps]);
      if (lane >= kWarps) x = Message{};  // nothing is added twice
      x = x.of_warp();
    }
    // As whole words: a message that ends with padding is copied byte by byte (renorm by top_p of one row: 2000 clocks).
    struct alignas(uint64_t) Letter {
      Message message;
    };
    struct Words {
      uint64_t words[sizeof(Letter) / sizeof(uint64_t)];
    };
    const int mail = mail_of(turn);
    if constexpr (kSends) {
      ptx::Mbarrier* const full = &smem.full.of_mail[mail];
      if (thread == 0) ptx::mbarrier_arrive_expect(full, uint32_t(kCluster * sizeof(Letter)));
      if (warp == 0 && lane < kCluster) {
        const Words sent = bit_cast<Words>(Letter{x});
        uint64_t* const to = reinterpret_cast<uint64_t*>(smem.mail[mail][rank()]);
#pragma unroll
        for (const uint64_t& word : sent.words) ptx::cluster_send(to + (&word - sent.words), word, full, uint32_t(lane));
      }
      __syncwarp();
      ptx::cluster_receive(full, uint32_t(turn / kParity >> mail & 1));
    } else if constexpr (kCluster > 1) {
      if (warp == 0 && lane < kCluster) *of(reinterpret_cast<Words*>(smem.mail[mail][rank()]), lane) = bit_cast<Words>(Letter{x});
      // What the block wrote before it met is released with the mail: in every warp the fence would wait for that warp's stores.
      if (warp == 0) {
        ptx::cluster_arrive();
      } else {
        ptx::cluster_arrive_relaxed();
      }
      ptx::cluster_wait();
    }
    if constexpr (kCluster > 1) {
      x = bit_cast<Letter>(*reinterpret_cast<const Words*>(smem.mail[mail][lane % kCluster])).message;
      if (lane >= kCluster) x = Message{};
      x = x.of_warp();
    }
    return x;
  }
};

}  // namespace flashinfer::gpu
