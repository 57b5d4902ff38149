// Which of the equal elements of a row is the n-th of them by index: they are counted by places in the row as they are met, so that what is
// looked at again is a place, and not the row.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/rank_select.cuh>

namespace flashinfer::gpu {

/// How many elements that weigh `each`, more than 0, make a mass what is needed, of which less lies above them.
FLASHINFER_DEVICE uint64_t ties_needed(uint64_t needed, uint64_t above, uint64_t each) { return (needed - above - 1) / each + 1; }

/// Of the ties that one block has met.
template <int kThreads>
class RowTies {
  static constexpr int kPlaces = 1024;  // of 128 elements, in rows of 128 Ki
  static constexpr int kOwn = kPlaces / kThreads;
  static_assert(kOwn * kThreads == kPlaces);

 public:
  struct Smem {
    uint32_t at_place[kPlaces];
    uint32_t partial[kThreads / kWarpSize];
    uint32_t before;  // those before the place that was found
    int place, index;
  };
  __device__ RowTies(Smem& smem, int vocab_size) : smem_(smem), shift_(max(54 - __clzll(int64_t(vocab_size - 1)), 0)) {}

  /// The threads meet before the first add().
  static __device__ void clear(Smem& smem) {
    for (int place = int(threadIdx.x); place < kPlaces; place += kThreads) smem.at_place[place] = 0;
  }
  __device__ int place_of(int index) const { return index >> shift_; }
  /// One at this index, or some in one place.
  __device__ void add(int index, uint32_t count = 1) const { atomicAdd(&smem_.at_place[place_of(index)], count); }

  /// How many there are, and how many before this thread's places. After all add(), when the threads have met; they meet.
  struct Count {
    uint32_t all, before;
  };
  __device__ Count count() const {
    uint32_t sum = 0, all;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) sum += of_thread(i);
    const uint32_t before = block_sum_before<kThreads>(sum, all, smem_.partial);
    return {all, before};
  }
  /// The index of the n-th of them, from 1 on, for which is_tie(index) holds; `before` as count() has it. The threads meet.
  template <class IsTie>
  __device__ int find(uint32_t n, uint32_t before, const IsTie& is_tie) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const uint32_t own = of_thread(i);
      if (before < n && before + own >= n) smem_.place = int(threadIdx.x) * kOwn + i, smem_.before = before;
      before += own;
    }
    __syncthreads();  // the place is known
    const int first = smem_.place << shift_;
    uint32_t counted = smem_.before, all;
#pragma unroll 1
    for (int start = 0; start < 1 << shift_; start += kThreads) {
      const int index = first + start + int(threadIdx.x);
      const uint32_t tie = start + int(threadIdx.x) < 1 << shift_ && is_tie(index) ? 1 : 0;
      if (counted + block_sum_before<kThreads>(tie, all, smem_.partial) + 1 == n && tie) smem_.index = index;
      counted += all;
      __syncthreads();  // partial sums have been read, and the index is there if it was found
    }
    return smem_.index;
  }

 private:
  Smem& smem_;
  const int shift_;

  __device__ uint32_t of_thread(int i) const { return smem_.at_place[int(threadIdx.x) * kOwn + i]; }
};

}  // namespace flashinfer::gpu
