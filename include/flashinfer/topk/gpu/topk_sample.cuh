// What a sample of a row tells of a bound for its first k elements: its largest element of each thread, spread over the row.
// For topk_selection.cuh, which collects what reaches the bound.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/rank_select.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/gpu/row_reader.cuh>
#include <flashinfer/topk/topk_params.hpp>

namespace flashinfer::gpu {

/// `kMany`: more may be wanted of a sample than half of the threads have for their largest elements.
template <TopkConfig kConfig, bool kMany>
class TopkSample {
 public:
  using T = number_t<kConfig.input>;
  static constexpr int kThreads = kConfig.threads, kVecs = kConfig.vecs, kCluster = kConfig.cluster;
  static constexpr int kVec = RowVectors<T>::kVec;
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kSamples = kWarps * kVecs;  // chunks that registers hold
  static_assert(kThreads * kVecs * kVec < 1 << 16);
  using Row = RowVectors<T>;
  using Group = RowGroup<kThreads, kCluster>;

  /// What shared memory begins with.
  struct Smem {
    RankSelectSmem<kThreads> select;
    KthKeySmem<kThreads> kth_key;
    uint32_t floor;  // key of the least of the threads' largest elements, if it was asked for
  };

 protected:
  using Vec = gpu::Vec<T, kVec>;
  Row row_;
  const int wanted_;  // elements to be chosen
  const int capacity_;
  const TieBreak& tie_break_;  // of the launch, and read where it is needed: registers are scarce
  const int chunks_;           // of this block

  __device__ TopkSample(const T* row, int length, int k, int capacity, const TieBreak& tie_break)
      : row_(row, length, 1, 0),
        wanted_(min(k, length)),
        capacity_(capacity),
        tie_break_(tie_break),
        chunks_((ceil_div(row_.count, kWarpSize) + kCluster - 1 - Group::rank()) / kCluster),
        smem_(smem()) {}

  /// The vector that this lane has of chunk `c` of this block.
  __device__ static int vec_of(int c) { return (c * kCluster + Group::rank()) * kWarpSize + int(threadIdx.x) % kWarpSize; }

  /// The i-th vector of this lane's sample: the block's chunks if registers can hold them, else as many, spread over the row: the first of
  /// as large a part for each, and of later parts the last, for of a row that rises the last chunk has the largest elements. (Evenly, by a
  /// division by kSamples - 1, 16-bit inputs spill on sm_120.)
  __device__ int sampled_vec(int i) const { return sampled_vec(i, chunks_); }
  __device__ static int sampled_vec(int i, int chunks) {
    const int sample = i * kWarps + int(threadIdx.x) / kWarpSize, later = 2 * i >= kVecs;
    return vec_of(chunks <= kSamples ? sample : int(int64_t(sample + later) * chunks / kSamples) - later);
  }

  __device__ static float largest_of(const Vec& held) {
    float x[kVec];
    held.to_float(x);
    float largest = x[0];
#pragma unroll
    for (int j = 1; j < kVec; ++j) largest = fmaxf(largest, x[j]);
    return largest;
  }

  template <class Count>
  __device__ void count_ranks(const Vec& held, int vec, const Count& count) const {
    const int first = row_.index_of(vec);
#pragma unroll 1  // there is one copy of `count`
    for (int j = 0; j < kVec; ++j)
      if (is_inside(first + j)) count(topk_rank(held.at(j), first + j, tie_break_));
  }
  __device__ bool is_inside(int index) const { return uint32_t(index) < uint32_t(row_.length); }

  /// What a few more than the wanted elements of this block reach, as the sample tells, of which `best` is this thread's largest.
  __device__ uint64_t bound_of(float best) {
    if (row_.length <= capacity_ && row_.length <= 2 * wanted_) {
      __syncthreads();  // the count is zero
      return 0;
    }
    const int sampled = min(chunks_, kSamples);
    const uint32_t own = sampled_vec(0) < row_.count ? order_key(best) : 0u;
    int wanted = wanted_;
    if (kCluster > 1 || chunks_ > kSamples) {
      // The sample's share of the chosen, and four standard deviations more. Where rows are few and so little is wanted that places are
      // counted, fewer: in one row in a thousand that is not enough for one of the blocks, which costs 30 us (four cost 0.5 always).
      const bool less = kCluster > 4 && wanted_ <= kFewRanks<kThreads> / 2;
      const float deviations = less ? 3.5f : 4.0f;
      const int more = less ? 4 : 5;
      const float share = float(wanted_) * float(sampled * kWarpSize * kVec) * ptx::rcp(float(row_.length));
      wanted = min(wanted, int(share + deviations * share * ptx::rsqrt(share + 1)) + more);
    }
    const bool is_part = wanted < wanted_;
    tell_extremes(own);
    const uint64_t bound = bound_of_sample(own, wanted);
    const uint64_t above_floor = is_part ? bound_above_floor(own, sampled) : 0;
    return above_floor ? above_floor : bound;
  }

  /// Of this block. After bound_of(), unless that has let all in.
  __device__ float largest_sampled() const {
    const int lane = int(threadIdx.x) % kWarpSize;
    return value_of_order_key<float>(warp_max(lane < kWarps ? uint32_t(smem_.select.most[lane]) : 0u));
  }

 private:
  static __device__ Smem& smem() { return *reinterpret_cast<Smem*>(dynamic_smem()); }
  Smem& smem_;

  /// What of the sample a few more reach than are wanted. The threads meet.
  __device__ uint64_t bound_of_sample(uint32_t own, int wanted) {
    // Few: the largest element of each thread will do. Many: every element, read again, from L1.
    bool few = 2 * wanted <= min(chunks_, kWarps) * kWarpSize;
    uint64_t bound = 0;
    int reached = row_.length;  // elements that reach it
    if (few) {
      if (wanted <= KthKeySmem<kThreads>::kMostWanted) {
        const uint32_t key = block_about_kth_key(own, wanted, reached, smem_.kth_key);
        if (reached <= 2 * wanted + 8) return uint64_t(key) << 32;
      }
      // Many of one warp, or equal ones.
      const uint32_t key = block_kth_key(own, wanted, wanted / 4, reached);
      bound = uint64_t(key) << 32;
      // All of one warp: the chosen lie together, and of a sorted row in that chunk. No more of them than it shows may reach the bound, 44
      // of 64: then one block read the row again, up to seven times (H200, `top_k` 64 of 16 rows 115 us instead of 10.5). So as many of the
      // sample's elements as are wanted of the row. In a masked row the floor is the bound.
      if (wanted < wanted_ && reached <= kWarpSize && is_of_one_warp(key) && !floor().is_shared) few = false, wanted = wanted_;
    }
    const int slack = wanted / 4;
    if (!few) {
      if constexpr (kMany) {
        const uint64_t by_bins = key_by_bins(row_, chunks_, wanted);
        if (by_bins && int(uint32_t(by_bins)) <= wanted + slack) return by_bins >> 32 << 32;
      }
      bound = select_rank<kThreads>(
          wanted, slack, 32,
          [&](const auto& count) {
#pragma unroll 1
            for (int i = 0; i < kVecs; ++i) count_ranks(row_.load(sampled_vec(i)), sampled_vec(i), count);
          },
          smem_.select);
      reached = smem_.select.above + smem_.select.count;
    }
    const bool ties = bound != 0 && reached > wanted + slack;
    return ties ? bound_among_ties(value_of_order_key<float>(key_of_rank(bound)), wanted) : bound;
  }

  /// Each warp's least and greatest.
  __device__ void tell_extremes(uint32_t own) {
    const uint32_t low = ~warp_max(own ? ~own : 0u), high = warp_max(own);
    const int warp = int(threadIdx.x) / kWarpSize;
    if (threadIdx.x % kWarpSize == 0) smem_.select.least[warp] = low, smem_.select.most[warp] = high;
  }
  /// Whether one warp has all of the threads' largest elements that reach the key. After tell_extremes() and a barrier.
  __device__ bool is_of_one_warp(uint32_t key) const {
    const int lane = int(threadIdx.x) % kWarpSize;
    return __popc(__ballot_sync(0xffffffffu, lane < kWarps && uint32_t(smem_.select.most[lane]) >= key)) == 1;
  }
  /// The least of the threads' largest elements, and whether most warps have it: of a row that is not masked hardly two. After
  /// tell_extremes() and a barrier.
  struct Floor {
    uint32_t key;
    bool is_shared;
  };
  __device__ Floor floor() const {
    const int lane = int(threadIdx.x) % kWarpSize;
    const uint32_t low = lane < kWarps ? uint32_t(smem_.select.least[lane]) : ~0u, key = ~warp_max(~low);
    const int of_floor = __popc(__ballot_sync(0xffffffffu, low == key)), all = __popc(__ballot_sync(0xffffffffu, low != ~0u));
    return {key, 2 * of_floor > all};
  }
  /// The key of what as many of the sample's elements reach as are wanted, but for a bin: bins of equal width between the least of the
  /// threads' largest elements and the largest of all. What lies below has none. By their upper bits (select_rank) most elements share a
  /// dozen bins, where additions of a warp take turns. With how many reach it in the low half; 0 if the bins do not tell. After
  /// tell_extremes(). A function of its own, for registers are scarce around it; it finds shared memory itself, for through a pointer that
  /// is passed every access would be generic.
  static __device__ __noinline__ uint64_t key_by_bins(Row row, int chunks, int wanted) {
    Smem& smem = TopkSample::smem();
    constexpr int kBins = RankSelectSmem<kThreads>::kBins, kPerThread = kBins / kThreads;
    uint32_t* const bins = smem.select.histogram + int(threadIdx.x) * kPerThread;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) bins[i] = 0;
    __syncthreads();  // extremes of all warps are known, the bins are empty
    const int lane = int(threadIdx.x) % kWarpSize;
    const uint32_t low = ~warp_max(lane < kWarps ? ~uint32_t(smem.select.least[lane]) : 0u);
    const float least = value_of_order_key<float>(low);
    const float most = value_of_order_key<float>(warp_max(lane < kWarps ? uint32_t(smem.select.most[lane]) : 0u));
    const float width = (most - least) * (1.0f / float(kBins - 1)), per_bin = ptx::rcp(width);
    if (!(width > 0 && per_bin < kInfinity && per_bin > 0)) return 0;  // in all threads
#pragma unroll 1
    for (int i = 0; i < kVecs; ++i) {
      float x[kVec];
      row.load(sampled_vec(i, chunks)).to_float(x);
#pragma unroll
      for (int j = 0; j < kVec; ++j)  // not NaN, which lies outside the row too
        if (x[j] >= least) atomicAdd(&smem.select.histogram[min(int((most - x[j]) * per_bin), kBins - 1)], 1u);
    }
    __syncthreads();  // the bins are counted
    if (find_bin<kThreads>(wanted, smem.select) < wanted) return 0;
    const int reached = smem.select.above + smem.select.count;
    // Below the bin's end by more than roundings: what it has reaches that.
    return uint64_t(order_key(most - (float(smem.select.digit) + 1.02f) * width)) << 32 | uint32_t(reached);
  }
  /// A masked row has one value but for a few elements, which may lie together: no sample tells how many of those wanted a block has. So
  /// all that lies above the floor is let in, the least of the threads' largest elements, if it is likely to fit; else 0. After
  /// tell_extremes().
  __device__ uint64_t bound_above_floor(uint32_t own, int sampled) {
    const Floor floor = this->floor();
    if (threadIdx.x == 0) smem_.floor = floor.key;
    if (!floor.is_shared) return 0;
    const bool rises = own > floor.key, warp_rises = __any_sync(0xffffffffu, rises);
    const int above = __syncthreads_count(rises), warps = __syncthreads_count(threadIdx.x % kWarpSize == 0 && warp_rises);
    if (above == 0 || 4 * above > min(sampled, kWarps) * kWarpSize) return 0;  // not masked
    // Elements that lie together are hardly as many as their share of the sample says: if there were, more of their chunks would be in it.
    const bool together = above > warps * kWarpSize / 4;
    const float elements = float(above * kVec) * float(chunks_) * ptx::rcp(float(sampled));  // of the block
    return elements <= float(together ? 2 * capacity_ : capacity_ / kCluster) ? uint64_t(floor.key + 1) << 32 : 0;
  }

  /// Elements of this value are many: as large a part of the row is let in as of the sample is wanted.
  __device__ uint64_t bound_among_ties(float value, int wanted) {
    uint32_t counts = 0;  // of the sample, read again: those above, and in the low half those equal
#pragma unroll 1
    for (int i = 0; i < kVecs; ++i) {
      float x[kVec];
      row_.load(sampled_vec(i)).to_float(x);
#pragma unroll
      for (int j = 0; j < kVec; ++j) counts += x[j] > value ? 1u << 16 : x[j] == value ? 1u : 0u;
    }
    int total;
    block_sum_before<kThreads>(int(counts), total, smem_.select.partial);
    const int above = int(uint32_t(total) >> 16), equal = int(uint32_t(total) & 0xffffu);
    if (above >= wanted) return uint64_t(order_key(value) + 1) << 32;
    const float rest = float(wanted - above);
    const float part = (rest + 4 * rest * ptx::rsqrt(rest) + 4) * ptx::rcp(float(max(equal, 1)));
    const int place = part < 1 ? min(int(part * float(row_.length)), row_.length - 1) : row_.length - 1;
    return topk_rank(value, tie_break_ == TieBreak::small ? place : row_.length - 1 - place, tie_break_);
  }
};

}  // namespace flashinfer::gpu
