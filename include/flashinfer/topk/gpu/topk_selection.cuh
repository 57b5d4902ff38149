// Which elements of a row are the first k of its order (core/row_order.hpp): found exactly, left in shared memory as ranks.
// What topk_kernel.cuh writes, and sampling/gpu/topk_sampling_kernel.cuh draws from.
//
// Bound by: memory; a row is read once. Few rows: by the chain load, bound, collect, send, place.
// Threads:  a cluster of blocks a row (one block below SM90); warps take turns at chunks of 32 16-byte vectors, chunks go round the blocks.
// Method:   a bound that a few more than k elements reach, from a sample of the row (its largest element of each thread, spread over
//           the row); one pass collects what reaches it; the first block sorts the candidates of all and cuts at k. That is exact:
//           where the bound was too high or too low for that, which the counts tell, the row is selected by radix instead, digit by
//           digit. Ranks contain the index, so rows of equal elements are no special case.
// Memory:   shared: the candidates (dynamic), one histogram, and a ring of what is on its way (RowStream) where registers do not hold the
//           row.
// Sync:     barriers of the block; the first block of a cluster waits for what the others send it.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/ptx/prefetch.cuh>
#include <flashinfer/gpu/rank_select.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/gpu/row_stream.cuh>
#include <flashinfer/topk/gpu/topk_inbox.cuh>
#include <flashinfer/topk/topk_params.hpp>

namespace flashinfer::gpu {

/// What a thread adds up of the elements that it looks at, NaN among them for what lies outside the row, relative to `unit`; nothing here.
struct NoSum {
  static constexpr bool kSums = false;
  static constexpr float sum = 0, unit = 0;
  __device__ void begin(float) {}
  template <int kVec>
  __device__ void add(const float (&)[kVec]) {}
};

/// `kNan`: whether the row has a NaN is wanted too. `RowSum`: and a sum.
template <TopkConfig kConfig, bool kNan, class RowSum = NoSum>
class TopkSelection {
 public:
  using T = number_t<kConfig.input>;
  static constexpr int kThreads = kConfig.threads;
  static constexpr int kMinBlocks = kConfig.vecs > 4 || kConfig.cluster > 8 ? 1 : 1024 / kThreads;
  static constexpr bool kHeld = kMinBlocks * kThreads < 1024;  // more than 64 registers a thread
  static constexpr int kVecs = kConfig.vecs, kCluster = kConfig.cluster;
  static constexpr int kVec = RowVectors<T>::kVec;
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kSamples = kWarps * kVecs;              // chunks that registers hold
  static constexpr int kStep = kWarps * kCluster * kWarpSize;  // vectors from one of a thread's to its next
  static_assert(kThreads * kVecs * kVec < 1 << 16);
  using Row = RowVectors<T>;
  using Group = RowGroup<kThreads, kCluster>;

  static constexpr bool kStreams = kConfig.stages > 0;
  using Stream = RowStream<T, kThreads, max(kConfig.stages, 2)>;
  struct NoStream {};
  static constexpr bool kAhead = kCluster > 1 || kThreads > 512;  // the ring runs while the bound is found: no other block does meanwhile
  struct Sums {
    float2 sums[RowSum::kSums ? kWarps : 1];  // of warps, and their units
  };
  using Inbox = conditional_t<(kCluster > 1), TopkInbox<kThreads, max(kCluster, 2), RowSum::kSums>, Sums>;

  struct Smem {
    conditional_t<kStreams, typename Stream::Smem, NoStream> stream;
    RankSelectSmem<kThreads> select;
    KthKeySmem<kThreads> kth_key;
    Inbox inbox;
    int count;                           // candidates of this block, also those there was no room for
    int kept;                            // in the first block: of the others, too
    uint32_t nans;                       // not 0: this block has seen one
    alignas(16) uint64_t candidates[2];  // in truth as many as there is room for
  };
  static_assert(sizeof(Smem) - sizeof(Smem::candidates) <= kConfig.smem_bytes(0));

  /// The blocks of a cluster begin to meet. Every thread, before the dependency wait; who does not choose() meets the others.
  static __device__ void begin() {
    if constexpr (kCluster > 1) reinterpret_cast<Smem*>(dynamic_smem())->inbox.begin();
  }
  static __device__ void meet() {
    if constexpr (kCluster > 1) Inbox::meet();
  }

  /// Of the first `k` elements of `row`, all if there are fewer. `capacity`: ranks that shared memory has room for.
  __device__ TopkSelection(const T* row, int length, int k, int capacity, const TieBreak& tie_break)
      : smem_(*reinterpret_cast<Smem*>(dynamic_smem())),
        row_(row, length, 1, 0),
        rank_(Group::rank()),
        wanted_(min(k, length)),
        capacity_(capacity),
        tie_break_(tie_break),
        chunks_((ceil_div(row_.count, kWarpSize) + kCluster - 1 - rank_) / kCluster) {}

  __device__ const Row& row() const { return row_; }
  __device__ RowSum& row_sum() { return sum_; }
  __device__ int wanted() const { return wanted_; }
  __device__ T element(int index) const { return row_.base[int64_t(index) + row_.skip]; }
  /// By the first block, after choose().
  __device__ bool has_nan() const { return kNan && bound_ == ~0ull; }

  /// Where the chosen are.
  enum class Chosen : uint8_t { elsewhere, among_few, sorted, by_index, overflow };
  /// Chooses. In the first block the ranks are in ranked() then, the first of a few in no order, or sorted, or in the order of their
  /// indices, or there was no room for them: overflow(place, rank) has been called for each, in the order of their indices. Other blocks
  /// have nothing.
  template <class Overflow>
  __device__ Chosen choose(const Overflow& overflow) {
    if (!collected_) meet();
    const int total = collected_ ? gather() : -1;
    if (rank_ != 0 || has_nan()) return Chosen::elsewhere;
    if (total >= wanted_ && total <= capacity_) {
      ranked_ = total;
      if (all_reach_ && total <= kFewRanks<kThreads> && 2 * total < capacity_) return Chosen::among_few;
      sort();
      ranked_ = wanted_;
      if (all_reach_ || smem_.candidates[wanted_ - 1] >= bound_) return Chosen::sorted;
    }
    ranked_ = wanted_;
    return select_by_radix(overflow) ? Chosen::by_index : Chosen::overflow;
  }
  __device__ uint64_t* ranked() const { return smem_.candidates; }
  __device__ int num_ranked() const { return ranked_; }
  __device__ void sort() { sort_candidates(ranked_, capacity_); }
  /// Of a few ranks behind ranked(), `first` even, after a barrier.
  __device__ PlacedRank place(int first, int count) const { return place_candidate(first, count); }
  /// The sum of f(a warp's sum, its unit) over the row, in the first block after choose().
  template <class F>
  __device__ float sum(const F& f) const {
    float sum = 0;
    for (int i = int(threadIdx.x) % kWarpSize; i < kCluster * kWarps; i += kWarpSize)
      sum += f(smem_.inbox.sums[i].x, smem_.inbox.sums[i].y);
    return warp_sum(sum);
  }
  /// Room for a sum of each warp, which choose() no longer needs.
  __device__ uint64_t (&sums() const)[kWarps] { return smem_.select.most; }

  /// Collects this block's elements that reach a bound. They contain what is to be chosen of this block if every block's bound is at most
  /// the rank of the last chosen. For at most a fourth of the capacity, or rows that fit; without it choose() selects by radix.
  __device__ void collect() {
    if (threadIdx.x == 0) smem_.count = 0, smem_.kept = 0, smem_.nans = 0;
    const int warp = int(threadIdx.x) / kWarpSize;
    const bool whole = chunks_ <= kSamples;
    Vec held[kVecs];
    if (kHeld && whole) {
      row_.load(held, vec_of(warp), kStep);
    } else {
#pragma unroll
      for (int i = 0; i < kVecs; ++i) held[i] = row_.load(sampled_vec(i));
    }
    if (!whole) {
      if constexpr (kStreams && kAhead)
        Stream::start(smem_.stream, row_, vec_of(warp), kStep);
      else if constexpr (!kStreams)
        prefetch();
    }
    meet();
    uint64_t bound = bound_of(held);
    for (bool in_registers = whole;; in_registers = false) {
      const Limits limits = limits_of(bound);
      sum_.begin(limits.limit);
      if (in_registers) {
#pragma unroll
        for (int i = 0; i < kVecs; ++i) offer(held[i], kHeld ? vec_of(warp) + i * kStep : sampled_vec(i), limits, bound);
      } else if constexpr (kStreams) {
        const int own = chunks_ > warp ? (chunks_ - warp - 1) / kWarps + 1 : 0;
        if constexpr (!kAhead) Stream::start(smem_.stream, row_, vec_of(warp), kStep);
        Stream::for_each_started(smem_.stream, row_, vec_of(warp), kStep, own, Row::kNan,
                                 [&](const Vec& v, int vec) { offer(v, vec, limits, bound); });
      } else {
#pragma unroll 1
        for (int chunk = warp; chunk < chunks_; chunk += kSamples) {
#pragma unroll
          for (int i = 0; i < kVecs; ++i) held[i] = row_.load(vec_of(chunk + i * kWarps));
#pragma unroll
          for (int i = 0; i < kVecs; ++i) offer(held[i], vec_of(chunk + i * kWarps), limits, bound);
        }
      }
      __syncthreads();  // count and candidates are complete
      if (smem_.count <= capacity_) break;
      bound = raised();
      if constexpr (kStreams && kAhead) Stream::start(smem_.stream, row_, vec_of(warp), kStep);
    }
    bound_ = kNan && smem_.nans ? ~0ull : bound;
    collected_ = true;
  }

 private:
  using Vec = gpu::Vec<T, kVec>;

  Smem& smem_;
  Row row_;
  const int rank_;    // of this block
  const int wanted_;  // elements to be chosen
  const int capacity_;
  const TieBreak& tie_break_;  // of the launch, and read where it is needed: registers are scarce
  const int chunks_;           // of this block
  uint64_t bound_ = 0;
  bool collected_ = false;
  bool all_reach_ = true;  // the candidates gathered, the bound
  int ranked_ = 0;
  RowSum sum_;

  /// The vector that this lane has of chunk `c` of this block.
  __device__ int vec_of(int c) const { return (c * kCluster + rank_) * kWarpSize + int(threadIdx.x) % kWarpSize; }

  /// The i-th vector of this lane's sample: the block's chunks if registers can hold them, else as many, spread over the row.
  __device__ int sampled_vec(int i) const {
    const int sample = i * kWarps + int(threadIdx.x) / kWarpSize;
    return vec_of(chunks_ <= kSamples ? sample : int(int64_t(sample) * chunks_ / kSamples));
  }

  /// What as many of the candidates reach as are wanted: surely no more than the last chosen, and a fourth of those that did not fit.
  __device__ uint64_t raised() {
    const uint64_t bound = select_rank<kThreads>(
        wanted_, wanted_ / 4, 0,
        [&](const auto& count) {
#pragma unroll 1
          for (int i = int(threadIdx.x); i < capacity_; i += kThreads) count(smem_.candidates[i]);
        },
        smem_.select);
    if (threadIdx.x == 0) smem_.count = 0;
    __syncthreads();  // the candidates have been read
    return bound;
  }

  /// A line of 128 bytes a thread: the memory is busy while the bound is found.
  __device__ void prefetch() const {
    const int chunk = int(threadIdx.x) / 4;
    const int first = row_.first_index((chunk * kCluster + rank_) * kWarpSize + int(threadIdx.x) % 4 * 8);
    if (chunk < chunks_ && first >= 0 && first < row_.length) ptx::prefetch_l2(row_.base + first + row_.skip);
  }

  /// What a few more than the wanted elements of this block reach, as the elements held tell.
  __device__ uint64_t bound_of(const Vec (&held)[kVecs]) {
    if (row_.length <= capacity_ && row_.length <= 2 * wanted_) {
      __syncthreads();  // the count is zero
      return 0;
    }
    const int sampled = min(chunks_, kSamples);
    int wanted = wanted_;
    if (kCluster > 1 || chunks_ > kSamples) {
      // The sample's share of the chosen, and four standard deviations more. Where rows are few, fewer, for their candidates' places are
      // counted: that is not enough for one row in 10^4 or less, which is selected by radix then.
      constexpr float kDeviations = kCluster < 8 ? 4.0f : 3.5f;
      constexpr int kMore = kCluster < 8 ? 5 : 4;
      const float share = float(wanted_) * float(sampled * kWarpSize * kVec) * ptx::rcp(float(row_.length));
      wanted = min(wanted, int(share + kDeviations * share * ptx::rsqrt(share + 1)) + kMore);
    }
    const int slack = wanted / 4;
    // Few: the largest element of each thread will do. Many: every element, read again, from L1.
    const bool few = 2 * wanted <= min(chunks_, kWarps) * kWarpSize;
    uint64_t bound;
    int reached = row_.length;  // elements that reach it
    if (few) {
      float best = -kInfinity;
#pragma unroll
      for (int i = 0; i < kVecs; ++i) {
        float x[kVec];
        held[i].to_float(x);
#pragma unroll
        for (int j = 0; j < kVec; ++j) best = fmaxf(best, x[j]);
      }
      const uint32_t own = sampled_vec(0) < row_.count ? order_key(best) : 0u;
      if (wanted <= KthKeySmem<kThreads>::kMostWanted) {
        const uint32_t key = block_about_kth_key(own, wanted, reached, smem_.kth_key);
        if (reached <= 2 * wanted + 8) return uint64_t(key) << 32;
      }
      // Many of one warp, or equal ones.
      bound = uint64_t(block_kth_key(own, wanted, slack, reached)) << 32;
    } else {
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
    return ties ? bound_among_ties(held, value_of_order_key<float>(key_of_rank(bound)), wanted) : bound;
  }

  /// Elements of this value are many: as large a part of the row is let in as of the sample is wanted.
  __device__ uint64_t bound_among_ties(const Vec (&held)[kVecs], float value, int wanted) {
    uint32_t counts = 0;  // of the elements held, those above, and in the low half those equal
#pragma unroll
    for (int i = 0; i < kVecs; ++i) {
      float x[kVec];
      held[i].to_float(x);
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

  template <class Count>
  __device__ void count_ranks(const Vec& held, int vec, const Count& count) const {
    float x[kVec];
    held.to_float(x);
#pragma unroll
    for (int j = 0; j < kVec; ++j)
      if (is_inside(row_.first_index(vec) + j)) count(topk_rank(x[j], row_.first_index(vec) + j, tie_break_));
  }
  __device__ bool is_inside(int index) const { return uint32_t(index) < uint32_t(row_.length); }

  /// The bound as what elements are compared with first. Elements of its value pass up to the index `last`, or from it on.
  struct Limits {
    float limit, above;
    uint32_t last;
  };
  __device__ Limits limits_of(uint64_t bound) const {
    const uint32_t key = key_of_rank(bound);
    return {value_of_order_key<float>(key), value_of_order_key<float>(key + 1), uint32_t(topk_index(bound, tie_break_))};
  }

  /// Takes the elements that reach the bound. NaN passes for what it is worth.
  __device__ void offer(const Vec& held, int vec, const Limits& limits, uint64_t bound) {
    float x[kVec];
    held.to_float(x);
    sum_.add(x);
    const int first_index = row_.first_index(vec);
    const uint32_t first = uint32_t(max(first_index, 0));
    const bool ties = tie_break_ == TieBreak::small ? first <= limits.last : first + kVec > limits.last;
    const float limit = ties ? limits.limit : limits.above;
    uint32_t hits = 0;
#pragma unroll
    for (int j = 0; j < kVec; ++j) hits |= !(x[j] < limit) ? 1u << j : 0u;
    if (first_index >= row_.length) hits = 0;
#pragma unroll 1
    for (; hits; hits &= hits - 1) {
      const int j = __ffs(int(hits)) - 1, index = first_index + j;
      float value = x[0];
#pragma unroll
      for (int i = 1; i < kVec; ++i) value = i == j ? x[i] : value;  // registers have no addresses
      const uint64_t rank = topk_rank(value, index, tie_break_);
      if (rank >= bound && is_inside(index)) {
        const int place = atomicAdd(&smem_.count, 1);
        if (place < capacity_) smem_.candidates[place] = rank;
      }
      if (kNan && key_of_rank(rank) == 0 && is_inside(index)) atomicAdd(&smem_.nans, 1u);
    }
  }

  /// Brings the candidates of all blocks that may be chosen to the first, which gets their number; more than the capacity: some are
  /// missing. The bound becomes the greatest of all blocks: what does not reach that need not be kept.
  __device__ int gather() {
    const float2 sum = make_float2(RowSum::kSums ? warp_sum(sum_.sum) : 0.0f, sum_.unit);
    if constexpr (kCluster > 1) {
      smem_.inbox.send(rank_, smem_.candidates, smem_.count, bound_, sum);
      if (rank_ > 0) return 0;
      bound_ = smem_.inbox.receive();
      const int stay = smem_.inbox.stay();
      all_reach_ = stay == 0;
      smem_.inbox.for_each(smem_.candidates, [&](uint64_t rank) {
        if (rank < bound_) return;
        const int place = stay + atomicAdd(&smem_.kept, 1);
        if (place < capacity_) smem_.candidates[place] = rank;
      });
      __syncthreads();  // the list is complete
      smem_.inbox.let_go();
      return stay + smem_.kept;
    } else {
      if constexpr (RowSum::kSums) {
        if (threadIdx.x % kWarpSize == 0) smem_.inbox.sums[threadIdx.x / kWarpSize] = sum;
        __syncthreads();
      }
      return smem_.count;
    }
  }

  /// Exact whatever the row holds and however many are wanted, by one block: up to six passes for the last rank chosen, one that
  /// lists what reaches it in the order of the indices. False if the list had no room.
  template <class Overflow>
  __device__ bool select_by_radix(const Overflow& overflow) {
    const uint64_t bound = select_rank<kThreads>(
        wanted_, 0, 0,
        [&](const auto& count) {
#pragma unroll 1
          for (int vec = int(threadIdx.x); vec < row_.count; vec += kThreads) count_ranks(row_.load(vec), vec, count);
        },
        smem_.select);
    const bool fits = wanted_ <= capacity_;
    int written = 0;
    for (int first = 0; first < row_.count && written < wanted_; first += kThreads) {
      const int vec = first + int(threadIdx.x);
      const Vec held = row_.load(vec);
      int count = 0, total;
      count_ranks(held, vec, [&](uint64_t rank) { count += rank >= bound; });
      int place = written + block_sum_before<kThreads>(count, total, smem_.select.partial);
      if (count > 0) {
        count_ranks(held, vec, [&](uint64_t rank) {
          if (rank < bound) return;
          if (fits)
            smem_.candidates[place] = rank;
          else
            overflow(place, rank);
          ++place;
        });
      }
      written += total;
      __syncthreads();  // partial sums have been read
    }
    return fits;
  }

  /// Greatest first. A function of its own, for two calls: it is as long as the rest. It finds shared memory itself, for through a pointer
  /// that is passed every access would be generic.
  static __device__ __noinline__ void sort_candidates(int count, int capacity) {
    Smem& smem = *reinterpret_cast<Smem*>(dynamic_smem());
    sort_ranks<kThreads>(smem.candidates, count, capacity, smem.select);
  }
  static __device__ __noinline__ PlacedRank place_candidate(int first, int count) {
    return place_rank<kThreads>(reinterpret_cast<Smem*>(dynamic_smem())->candidates + first, count);
  }
};

}  // namespace flashinfer::gpu
