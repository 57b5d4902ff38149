// Which elements of a row are the first k of its order (core/row_order.hpp): found exactly, left in shared memory as ranks.
// What topk_kernel.cuh writes, and sampling/gpu/topk_sampling_kernel.cuh draws from.
//
// Bound by: memory; a row is read once. Few rows: by the chain load, bound, collect, send, place.
// Threads:  a cluster of blocks a row (one block below SM90); warps take turns at chunks of 32 16-byte vectors, chunks go round the blocks.
// Method:   a bound that a few more than k elements reach, from a sample of the row (its largest element of each thread, spread over
//           the row; where these lie in one chunk, as in sorted rows, every element; of a row that is masked but for a few, all of those);
//           one pass collects what reaches it; the first block sorts the candidates of all and cuts at k, or only cuts where they are
//           wanted by their indices. That is exact: where the bound was too high or too low for that, which the counts tell, a mask leaves
//           less than k and the rest are the first of its elements, or the first block collects once more by a bound of its own, and where
//           that does not do, selects by radix, digit by digit. Ranks contain the index, so rows of equal elements are no special case.
// Memory:   shared: the candidates (dynamic), what each warp has put by of them in the place of one histogram, and a ring of what is on
//           its way (RowStream) where registers do not hold the row.
// Sync:     barriers of the block; the first block of a cluster waits for what the others send it.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/ptx/prefetch.cuh>
#include <flashinfer/gpu/rank_select.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/gpu/row_stream.cuh>
#include <flashinfer/topk/gpu/topk_inbox.cuh>
#include <flashinfer/topk/gpu/topk_sample.cuh>
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

/// `kMany`: as TopkSample has it. `kNan`: whether the row has a NaN is wanted too. `RowSum`: and a sum. `kOnce`: as RowStream has it.
template <TopkConfig kConfig, bool kMany, bool kNan, class RowSum = NoSum, bool kOnce = false>
class TopkSelection : TopkSample<kConfig, kMany> {
  using Sample = TopkSample<kConfig, kMany>;
  using Sample::bound_of, Sample::count_ranks, Sample::largest_of, Sample::largest_sampled, Sample::sampled_vec, Sample::vec_of;
  using Sample::capacity_, Sample::chunks_, Sample::row_, Sample::tie_break_, Sample::wanted_;
  using typename Sample::Vec;

 public:
  using Sample::kCluster, Sample::kSamples, Sample::kThreads, Sample::kVec, Sample::kVecs, Sample::kWarps;
  using typename Sample::Group, typename Sample::Row, typename Sample::T;
  // 64 registers a thread; 128 where they hold the row, or more than four vectors of it.
  static constexpr int kMinBlocks = (kConfig.stages == 0 && kConfig.cluster >= 8) ? 1 : (kConfig.vecs > 4 ? 512 : 1024) / kThreads;
  static constexpr bool kHeld = kMinBlocks * kThreads < 1024;  // more than 64 registers a thread
  static constexpr int kStep = kWarps * kCluster * kWarpSize;  // vectors from one of a thread's to its next

  static constexpr bool kStreams = kConfig.stages > 0;
  using Stream = RowStream<T, kThreads, max(kConfig.stages, 2), false, 0, kOnce>;
  struct NoStream {};
  struct Sums {
    float2 sums[RowSum::kSums ? kWarps : 1];  // of warps, and their units
  };
  using Inbox = conditional_t<(kCluster > 1), TopkInbox<kThreads, max(kCluster, 2), kConfig.slots(), RowSum::kSums>, Sums>;

  struct Smem {
    typename Sample::Smem sample;
    conditional_t<kStreams, typename Stream::Smem, NoStream> stream;
    Inbox inbox;
    int count;                           // candidates of this block, also those there was no room for
    int kept;                            // in the first block: of the others, too
    uint32_t nans;                       // not 0: this block has seen one
    alignas(16) uint64_t candidates[2];  // in truth as many as there is room for
  };
  static_assert(sizeof(Smem) - sizeof(Smem::candidates) <= kConfig.smem_bytes(0));

  /// The blocks of a cluster begin to meet, with room for what `k` wanted bring. Every thread, before the dependency wait, which k may not
  /// lie behind; who does not choose() meets the others.
  static __device__ void begin(int k) {
    if constexpr (kCluster > 1) smem().inbox.begin(k);
  }
  static __device__ void meet() {
    if constexpr (kCluster > 1) Inbox::meet();
  }

  /// Of the first `k` elements of `row`, all if there are fewer. `capacity`: ranks that shared memory has room for. `begun`: the k of
  /// begin().
  __device__ TopkSelection(const T* row, int length, int k, int capacity, const TieBreak& tie_break, int begun)
      : Sample(row, length, k, capacity, tie_break), smem_(smem()), begun_(begun) {}

  __device__ const Row& row() const { return row_; }
  __device__ RowSum& row_sum() { return sum_; }
  __device__ int wanted() const { return wanted_; }
  __device__ T element(int index) const { return row_.base[int64_t(index) + row_.skip]; }
  /// By the first block, after choose().
  __device__ bool has_nan() const { return kNan && bound_ == ~0ull; }

  /// Where the chosen are.
  enum class Chosen : uint8_t { elsewhere, among_few, cut, sorted, by_index, overflow };
  /// Chooses. In the first block the ranks are in ranked() then, the first of a few in no order, or those that reach a last one if they
  /// need not be sorted, or sorted, or in the order of their indices, or there was no room for them: overflow(place, rank) has been called
  /// for each, in the order of their indices. Other blocks have nothing.
  template <class Overflow>
  __device__ Chosen choose(bool sorts, const Overflow& overflow) {
    if (!collected_) meet();
    const int total = collected_ ? gather() : -1;
    if (Group::rank() != 0 || has_nan()) return Chosen::elsewhere;
    if (total >= 0 && total <= capacity_) {
      ranked_ = total;
      if (total >= wanted_) {
        if (all_reach_ && total <= kFewRanks<kThreads> && 2 * total < capacity_) return Chosen::among_few;
        if (!sorts && has_map()) {
          if (cut()) return Chosen::cut;
        } else if (sort_and_cut()) {
          return Chosen::sorted;
        }
      }
      if (choose_from_floor()) return Chosen::sorted;
    }
    if (total >= 0) {
      ranked_ = collect_again();
      if (ranked_ >= wanted_ && ranked_ <= capacity_ && sort_and_cut()) return Chosen::sorted;
    }
    ranked_ = wanted_;
    return select_by_radix(overflow) ? Chosen::by_index : Chosen::overflow;
  }
  __device__ uint64_t* ranked() const { return smem_.candidates; }
  __device__ int num_ranked() const { return ranked_; }
  __device__ void sort() { sort_candidates(ranked_, wanted_, capacity_); }
  /// f(place, rank) for those that reach the last of the chosen, after Chosen::cut: their places in the order of their indices. A map of
  /// the row has a bit for each; the bits before it tell its place.
  template <class F>
  __device__ void for_each_by_index(const F& f) const {
    const int thread = int(threadIdx.x), words = ceil_div(row_.length, 32);
    uint32_t* const map = this->map();
#pragma unroll 1
    for (int i = thread; i < words; i += kThreads) map[i] = 0;
    __syncthreads();  // the map is empty
    const auto for_each = [&](const auto& g) {
#pragma unroll 1
      for (int i = thread; i < ranked_; i += kThreads) {
        const uint64_t rank = smem_.candidates[i];
        const int index = topk_index(rank, tie_break_);
        if (rank >= last_) g(rank, index / 32, 1u << index % 32);
      }
    };
    for_each([&](uint64_t, int word, uint32_t bit) { atomicOr(&map[word], bit); });
    __syncthreads();  // the map is complete
    // The bits before each word, or of longer rows before each group of words: with one count for all words of a thread, to which those
    // before are added at every look, k 2048 of 131072 takes 1 us of 16 more (H100).
    uint16_t* const before = reinterpret_cast<uint16_t*>(smem_.sample.select.histogram);
    constexpr int kCounts = 2 * RankSelectSmem<kThreads>::kBins;
    int group = 0;  // words, as a power of two
    while (kCounts << group < words) ++group;
    const int of_thread = (words + (kThreads << group) - 1) / kThreads >> group << group;
    const int first = thread * of_thread, end = min(first + of_thread, words);
    int own = 0, total;
    for (int i = first; i < end; ++i) own += __popc(map[i]);
    int sum = block_sum_before<kThreads>(own, total, smem_.sample.select.partial);
    if (first < end) before[first >> group] = uint16_t(sum);
    for (int i = first + 1; i < end; ++i) {
      sum += __popc(map[i - 1]);
      if (i >> group << group == i) before[i >> group] = uint16_t(sum);
    }
    __syncthreads();  // sums are known
    for_each([&](uint64_t rank, int word, uint32_t bit) {
      int place = int(before[word >> group]) + __popc(map[word] & (bit - 1));
      for (int i = word >> group << group; i < word; ++i) place += __popc(map[i]);
      f(place, rank);
    });
  }
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
  __device__ uint64_t (&sums() const)[kWarps] { return smem_.sample.select.most; }

  /// Collects this block's elements that reach a bound. They contain what is to be chosen of this block if every block's bound is at most
  /// the rank of the last chosen. For at most a fourth of the capacity, or rows that fit; without it choose() selects by radix.
  __device__ void collect() {
    if (threadIdx.x == 0) smem_.count = 0, smem_.kept = 0, smem_.nans = 0, smem_.sample.floor = 0;
    const int warp = int(threadIdx.x) / kWarpSize;
    const bool whole = kHeld && chunks_ <= kSamples;  // registers hold this block's part
    Vec held[kVecs];
    if (whole) {
      row_.load(held, vec_of(warp), kStep);
    } else {
#pragma unroll
      for (int i = 0; i < kVecs; ++i) held[i] = row_.load(sampled_vec(i));
    }
    if (!whole) {
      if constexpr (kStreams)
        Stream::start(smem_.stream, row_, vec_of(warp), kStep);
      else
        prefetch();
    }
    meet();
    float best = -kInfinity;  // of this thread
#pragma unroll
    for (int i = 0; i < kVecs; ++i) best = fmaxf(best, largest_of(held[i]));
    uint64_t bound = bound_of(best);
    for (bool in_registers = whole;; in_registers = false) {
      const Limits limits = limits_of(bound);
      if constexpr (RowSum::kSums) sum_.begin(bound ? largest_sampled() : -kInfinity);
      if (kHeld && in_registers) {
#pragma unroll
        for (int i = 0; i < kVecs; ++i)
          if (warp + i * kWarps < chunks_) offer(held[i], row_.index_of(vec_of(warp) + i * kStep), limits, bound);
      } else {
        const int own = chunks_ > warp ? (chunks_ - warp - 1) / kWarps + 1 : 0;
        if constexpr (kStreams)
          Stream::for_each_started(smem_.stream, row_, vec_of(warp), kStep, own, Row::kNan,
                                   [&](const Vec(&v)[1], int index) { offer(v[0], index, limits, bound); });
        else
          offer_loaded(vec_of(warp), kStep, own, limits, bound);
      }
      add_stashed();
      if (smem_.count <= capacity_) break;
      bound = raised(wanted_, capacity_);
      if constexpr (kStreams) Stream::start(smem_.stream, row_, vec_of(warp), kStep);
    }
    if (kCluster > 1 && smem_.count > max(2 * wanted_, capacity_ / kCluster)) bound = trim(wanted_);
    bound_ = kNan && smem_.nans ? ~0ull : bound;
    collected_ = true;
  }

 private:
  /// The bound as what elements are compared with first: elements of its value pass in vectors up to the index `last`, or from it on where
  /// larger indices come first. Held in registers: the loop would derive them from the bound for every vector.
  struct Limits {
    float limit, above;
    int last, flip;
  };

  static __device__ Smem& smem() { return *reinterpret_cast<Smem*>(dynamic_smem()); }
  Smem& smem_;
  const int begun_;
  uint64_t bound_ = 0;
  bool collected_ = false;
  bool all_reach_ = true;  // the candidates gathered, the bound
  int ranked_ = 0;
  uint64_t last_ = 0;  // rank of the chosen, after cut()
  int stashed_ = 0;    // by this warp
  RowSum sum_;

  /// Offers the vectors first, first + step, ... of this thread, `count` of them.
  __device__ void offer_loaded(int first, int step, int count, const Limits& limits, uint64_t bound) {
    constexpr int kAtOnce = min(kVecs, 4);
#pragma unroll 1
    for (; count > 0; count -= kAtOnce, first += kAtOnce * step) {
      Vec held[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) held[i] = row_.load(first + i * step);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) offer(held[i], row_.index_of(first + i * step), limits, bound);
    }
  }
  __device__ void add_stashed() {
    stashed_ = add_stash(smem_, stashed_, capacity_);
    __syncthreads();  // count and candidates are complete
  }

  /// Where the bounds were too high, as one row in a thousand has it, or together too low: the first block reads the whole row again, for a
  /// bound between. How many reach it.
  __device__ int collect_again() {
    const int thread = int(threadIdx.x), chunks = ceil_div(row_.count, kThreads);
    float best = -kInfinity;
#pragma unroll 1
    for (int i = 0; i < kVecs; ++i) best = fmaxf(best, largest_of(row_.load(i * chunks / kVecs * kThreads + thread)));
    // As many of the sample as are wanted are enough, wherever the chosen lie; where those of the row would not fit, the sample's share.
    const float sampled = float(kVecs * kThreads * kVec), of_row = ptx::rcp(float(row_.length));
    const float share = min(float(wanted_), float(wanted_) * sampled * of_row);
    const bool fits = 2 * wanted_ <= kThreads && 1.5f * float(wanted_) < float(capacity_) * sampled * of_row;
    const int enough = fits ? wanted_ : min(int(share + 5 * share * ptx::rsqrt(share)) + 6, kThreads / 2);
    int reached;
    const uint32_t key = block_kth_key(order_key(best), enough, 4, reached);
    if (thread == 0) smem_.count = 0;
    __syncthreads();  // no candidates
    bound_ = uint64_t(key) << 32, all_reach_ = true;
    offer_loaded(thread, kThreads, chunks, limits_of(bound_), bound_);
    add_stashed();
    return smem_.count;
  }

  /// Where all that lies above the floor has been collected, and is less than wanted: the rest are the first of the floor's elements.
  __device__ bool choose_from_floor() {
    ranked_ = add_floor(row_.base + row_.skip, row_.length, wanted_, ranked_, bound_, tie_break_, capacity_);
    if (ranked_ == 0) return false;
    sort();
    ranked_ = wanted_;
    return true;
  }
  /// Adds them to the candidates, whose first `count` have all that reach the bound. Returns how many there are then, 0 if not enough.
  static __device__ __noinline__ int add_floor(const T* row, int length, int wanted, int count, uint64_t bound, TieBreak tie_break,
                                               int capacity) {
    Smem& smem = TopkSelection::smem();
    if (bound != uint64_t(smem.sample.floor + 1) << 32) return 0;
    int reached = 0;
#pragma unroll 1
    for (int first = 0; first < count; first += kThreads) {
      const int i = first + int(threadIdx.x);
      const bool reaches = i < count && smem.candidates[i] >= bound;
      if (i < count && !reaches) smem.candidates[i] = 0;  // behind all
      reached += __syncthreads_count(reaches);
    }
    const int missing = wanted - reached;
    if (missing <= 0 || count + missing > capacity) return 0;
    const Row vecs(row, length, 1, 0);
    const bool small = tie_break == TieBreak::small;
    const float floor = value_of_order_key<float>(smem.sample.floor);
    int found = 0;
#pragma unroll 1
    for (int start = 0; start < vecs.count && found < missing; start += kThreads) {
      const int nth = start + int(threadIdx.x), vec = small ? nth : vecs.count - 1 - nth;
      float x[kVec];
      vecs.load(vec).to_float(x);
      uint32_t equal = 0;
#pragma unroll
      for (int j = 0; j < kVec; ++j) equal |= x[j] == floor ? 1u << j : 0u;
      int all, place = found + block_sum_before<kThreads>(__popc(equal), all, smem.sample.select.partial);
#pragma unroll 1
      for (; equal && place < missing; ++place) {
        const int j = small ? __ffs(int(equal)) - 1 : 63 - int(__clzll(int64_t(equal)));
        smem.candidates[count + place] = topk_rank(floor, vecs.index_of(vec) + j, tie_break);
        equal &= ~(1u << j);
      }
      found += all;
      __syncthreads();  // partial sums have been read
    }
    return found < missing ? 0 : count + missing;
  }

  /// A bit for each of the row, behind the candidates. Is there room?
  __device__ uint32_t* map() const { return reinterpret_cast<uint32_t*>(smem_.candidates + ranked_); }
  __device__ bool has_map() const { return ranked_ + ceil_div(row_.length, 64) <= capacity_; }
  /// Whether the candidates that reach the last of as many as are wanted are those of the row.
  __device__ bool cut() {
    last_ = kth_candidate(ranked_, wanted_);
    return all_reach_ || last_ >= bound_;
  }
  /// Whether the first of the candidates are those of the row.
  __device__ bool sort_and_cut() {
    sort();
    ranked_ = wanted_;
    return all_reach_ || smem_.candidates[wanted_ - 1] >= bound_;
  }

  /// What as many of the candidates reach as are wanted, or a fourth more: surely no more than the last chosen. The count is zero then.
  static __device__ __noinline__ uint64_t raised(int wanted, int count) {
    Smem& smem = TopkSelection::smem();
    const uint64_t bound = select_rank<kThreads>(
        wanted, wanted / 4, 0,
        [&](const auto& visit) {
#pragma unroll 1
          for (int i = int(threadIdx.x); i < count; i += kThreads) visit(smem.candidates[i]);
        },
        smem.sample.select);
    if (threadIdx.x == 0) smem.count = 0;
    __syncthreads();  // the candidates have been read
    return bound;
  }
  /// Leaves of this block's candidates those that reach such a bound, so that those of all blocks find room in the first.
  static __device__ __noinline__ uint64_t trim(int wanted) {
    Smem& smem = TopkSelection::smem();
    const int count = smem.count;
    const uint64_t bound = raised(wanted, count);
#pragma unroll 1
    for (int first = 0; first < count; first += kThreads) {
      const int i = first + int(threadIdx.x);
      const uint64_t rank = i < count ? smem.candidates[i] : 0;
      __syncthreads();  // what is written next has been read
      if (rank >= bound) smem.candidates[atomicAdd(&smem.count, 1)] = rank;
    }
    __syncthreads();  // count and candidates are complete
    return bound;
  }

  /// A line of 128 bytes a thread: the memory is busy while the bound is found.
  __device__ void prefetch() const {
    const int chunk = int(threadIdx.x) / 4;
    const int first = row_.first_index((chunk * kCluster + Group::rank()) * kWarpSize + int(threadIdx.x) % 4 * 8);
    if (chunk < chunks_ && first >= 0 && first < row_.length) ptx::prefetch_l2(row_.base + first + row_.skip);
  }

  __device__ Limits limits_of(uint64_t bound) const {
    const uint32_t key = key_of_rank(bound), index = uint32_t(topk_index(bound, tie_break_));
    const int last = int(min(index, 0x7fffffffu));
    const bool small = tie_break_ == TieBreak::small;
    return {ptx::opaque(value_of_order_key<float>(key)), ptx::opaque(value_of_order_key<float>(key + 1)),
            ptx::opaque(small ? last : kVec - 2 - last), small ? 0 : -1};
  }

  /// Takes the elements that reach the bound of a vector whose first is the `first` of the row, by all lanes of a warp together. NaN passes
  /// for what it is worth.
  __device__ void offer(const Vec& held, int first, const Limits& limits, uint64_t bound) {
    float x[kVec];
    held.to_float(x);
    sum_.add(x);
    const float limit = (first ^ limits.flip) <= limits.last ? limits.limit : limits.above;
    bool any = false;
#pragma unroll
    for (int j = 0; j < kVec; ++j) any |= !(x[j] < limit);
    if (!__any_sync(0xffffffffu, any)) return;
    if constexpr (!kHeld)
      stashed_ = stash(held, first, row_.length, limit, bound, tie_break_, stashed_, capacity_);
    else  // one for many vectors
      stashed_ = call_stash(held, first, row_.length, limit, bound, tie_break_, stashed_, capacity_);
  }

  /// A warp puts its candidates by, and adds them to the block's when there is no more room, or at the end. Added one by one, each had the
  /// warp wait for shared memory behind copies under way, some 1000 clocks, and the block for the warp with most of them (H100: 1.5 to 10
  /// us a row). Returns how many are put by.
  static __device__ int stash(const Vec& held, int first, int length, float limit, uint64_t bound, TieBreak tie_break, int stashed,
                              int capacity) {
    Smem& smem = TopkSelection::smem();
    float x[kVec];
    held.to_float(x);
    uint32_t hits = 0;
#pragma unroll
    for (int j = 0; j < kVec; ++j) hits |= !(x[j] < limit) ? 1u << j : 0u;
#pragma unroll 1
    while (__any_sync(0xffffffffu, hits != 0)) {
      const int j = __ffs(int(hits)) - 1, index = first + j;
      const bool inside = hits && uint32_t(index) < uint32_t(length);
      const uint64_t rank = topk_rank(held.at(j), index, tie_break);
      const bool counts = inside && rank >= bound;
      const uint32_t taken = __ballot_sync(0xffffffffu, counts);
      if (stashed + __popc(taken) > kStash) stashed = add_stash(smem, stashed, capacity);
      if (counts) stash_of_warp(smem)[stashed + __popc(taken & ((1u << threadIdx.x % kWarpSize) - 1))] = rank;
      if (kNan && inside && key_of_rank(rank) == 0) smem.nans = 1;
      stashed += __popc(taken);
      hits &= hits - 1;
    }
    return stashed;
  }
  static __device__ __noinline__ int call_stash(Vec held, int first, int length, float limit, uint64_t bound, TieBreak tie_break,
                                                int stashed, int capacity) {
    return stash(held, first, length, limit, bound, tie_break, stashed, capacity);
  }
  static constexpr int kStash = RankSelectSmem<kThreads>::kBins / 2 / kWarps;
  static_assert(kStash >= kWarpSize);
  static __device__ uint64_t* stash_of_warp(Smem& smem) {  // where bins are counted, before and afterwards
    return reinterpret_cast<uint64_t*>(smem.sample.select.histogram) + int(threadIdx.x) / kWarpSize * kStash;
  }
  static __device__ int add_stash(Smem& smem, int stashed, int capacity) {
    const int lane = int(threadIdx.x) % kWarpSize;
    int place = 0;
    if (lane == 0 && stashed > 0) place = atomicAdd(&smem.count, stashed);
    place = __shfl_sync(0xffffffffu, place, 0);
    __syncwarp();  // what the others put by is seen
    const uint64_t* const ranks = stash_of_warp(smem);
#pragma unroll 1
    for (int i = lane; i < stashed && place + i < capacity; i += kWarpSize) smem.candidates[place + i] = ranks[i];
    __syncwarp();  // the ranks have been read
    return 0;
  }

  /// Brings the candidates of all blocks that may be chosen to the first, which gets their number; more than the capacity: some are
  /// missing. The bound becomes the greatest of all blocks: what does not reach that need not be kept.
  __device__ int gather() {
    const float2 sum = make_float2(RowSum::kSums ? warp_sum(sum_.sum) : 0.0f, sum_.unit);
    if constexpr (kCluster > 1) {
      const int slots = Inbox::slots_of(begun_);
      smem_.inbox.send(Group::rank(), slots, smem_.candidates, smem_.count, bound_, sum);
      if (Group::rank() > 0) return 0;
      bound_ = smem_.inbox.receive();
      const int stay = smem_.inbox.stay(slots);
      const int all = stay + smem_.inbox.size(slots);
      if (all > kFewRanks<kThreads> && all <= capacity_) {  // each has its place, for additions to one count take turns: 2 us for 3000
        // Two at once: four spill on sm_120.
        smem_.inbox.template for_each<2>(smem_.candidates, slots, [&](uint64_t rank, int place) { smem_.candidates[stay + place] = rank; });
        all_reach_ = false;
        __syncthreads();  // the list is complete
        smem_.inbox.let_go(slots);
        return all;
      }
      all_reach_ = stay == 0;
#pragma unroll 1
      for (;;) {
        smem_.inbox.template for_each<1>(smem_.candidates, slots, [&](uint64_t rank, int) {
          if (rank < bound_) return;
          const int place = stay + atomicAdd(&smem_.kept, 1);
          if (place < capacity_) smem_.candidates[place] = rank;
        });
        __syncthreads();  // the list is complete
        if (stay + smem_.kept <= capacity_) break;
        bound_ = raised(wanted_, capacity_);  // what stays is at most half of the list (trim())
        if (threadIdx.x == 0) smem_.kept = 0;
        __syncthreads();
      }
      smem_.inbox.let_go(slots);
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
        smem_.sample.select);
    const bool fits = wanted_ <= capacity_;
    int written = 0;
    for (int first = 0; first < row_.count && written < wanted_; first += kThreads) {
      const int vec = first + int(threadIdx.x);
      const Vec held = row_.load(vec);
      int count = 0, total;
      count_ranks(held, vec, [&](uint64_t rank) { count += rank >= bound; });
      int place = written + block_sum_before<kThreads>(count, total, smem_.sample.select.partial);
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
  static __device__ __noinline__ void sort_candidates(int count, int wanted, int capacity) {
    Smem& smem = TopkSelection::smem();
    sort_ranks<kThreads>(smem.candidates, count, wanted, capacity, smem.sample.select);
  }
  static __device__ __noinline__ uint64_t kth_candidate(int count, int k) {
    Smem& smem = TopkSelection::smem();
    return kth_rank<kThreads>(smem.candidates, count, k, smem.sample.select);
  }
  static __device__ __noinline__ PlacedRank place_candidate(int first, int count) {
    return place_rank<kThreads>(smem().candidates + first, count);
  }
};

}  // namespace flashinfer::gpu
