// Keeps the top_p prefix of whole rows of probabilities, renormalised.
// Called by sampling/gpu/renorm.hpp; twin of sampling/cpu/renorm.hpp, bit for bit.
//
// Threads:  a block for each row, so that nobody waits for other blocks, two on an SM where rows are many, one of which copies or writes
//           while the other thinks; clusters where rows are few.
// Memory:   a ring of chunks (row_ring.cuh), or all of a cluster's slices (row_held.cuh); candidates. What a step of few elements needs
//           lies where the step before had its own, or an SM would have no room for two blocks.
// Method: where few elements are kept, one look (topp_few.cuh), bound by memory, a read and a write. Else, where larger clusters share a
//         row, and where that look gave up:
//           1. The maximum, and sums by upper bits of the whole row: they leave one bin or two for the boundary. Blocks of a cluster tell
//              each other what octaves weigh, and read of each other the bins of the octave in question. Of flat rows these have some
//              thousand elements: another look divides them by finer bins, or, where a sample has told that many elements may be kept,
//              those around its boundary have finer bins in this one.
//           2. Exact masses, of the row and of what lies above those bins; what lies in them, some dozens of elements, is listed, and
//              sent to all blocks. What each of them weighs, and what lies above it, tells the last element of the prefix.
//           3. The row is written. What no kept element was near in 2 is not read.
//           Where the list has no room because the bins hold one value (flat rows, ties; of values that many neighbours have 1 tells),
//           counts by places in the row tell which of its elements is the last (row_ties.cuh). Where they hold more, or sums do not bear
//           the bins out, a narrower range is found by exact masses in bins of ranks, and listed again: two more passes, seldom four.
// A block reads its own slice only, and writes when it knows the prefix: the output may be the input.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/gpu/row_held.cuh>
#include <flashinfer/gpu/row_ring.cuh>
#include <flashinfer/sampling/gpu/prob_bins.cuh>
#include <flashinfer/sampling/gpu/rank_bins.cuh>
#include <flashinfer/sampling/gpu/row_candidates.cuh>
#include <flashinfer/sampling/gpu/row_hits.cuh>
#include <flashinfer/sampling/gpu/row_ties.cuh>
#include <flashinfer/sampling/gpu/row_weight.cuh>
#include <flashinfer/sampling/renorm_params.hpp>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer {

template <ToppRenormConfig kConfig>
struct ToppRenormKernel {
  using Params = RenormParams;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = kConfig.blocks;

  static __device__ void run(const Params& p) {
    static_assert(sizeof(Smem) <= kConfig.smem_bytes());
    Smem& smem = *reinterpret_cast<Smem*>(gpu::held_dynamic_smem());
    const auto prepare = [&smem] {
      Bins::clear(bins_of(smem.turn, smem));
      if (threadIdx.x == 0) smem.listed = 0, smem.prefix.rank = 0;
      if constexpr (kListFirst) Ties::clear(smem.turn.list.ties);
      Group::begin(smem.group);  // and the sums are empty
    };
    // Addresses first: beside the wait ptxas puts them behind it, 80 instructions before the first copy. (64 registers do not hold them.)
    if constexpr (kMinBlocks > 1) prepare();
    ToppRenormKernel kernel(p, smem, int(blockIdx.x) / kCluster);
    if constexpr (kMinBlocks == 1) prepare();
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    kernel.renorm();
    if (kCluster > 1) gpu::ptx::cluster_wait();  // no block leaves while another may read its shared memory
  }

 private:
  using T = number_t<kConfig.input>;
  using Out = number_t<kConfig.output>;
  using Row = gpu::RowVectors<T>;
  static constexpr bool kFew = kConfig.candidates > 0;
  using Group = gpu::RowGroup<kThreads, kCluster, kFew ? 4 : 2>;
  using Weight = gpu::RowWeight<RowValues::probs>;
  using Prefix = gpu::RowPrefix;
  static constexpr bool kHeld = kConfig.held;
  static_assert(!kHeld || !kFew);
  // Two blocks an SM have 64 registers a thread, and would spill if the first chunks left L2 first, too.
  using Ring = conditional_t<kHeld, gpu::RowHeld<T, kThreads, kConfig.chunks>,
                             gpu::RowRing<T, kThreads, kConfig.chunks, 0, false, (kFew ? 8 / Row::kVec : 1), (kFew && kMinBlocks == 1)>>;
  using Bins = gpu::ProbBins<kThreads, Group, kCluster, kFew && kCluster == 1>;
  using RankBins = gpu::RankBins<kThreads, Group, kCluster>;
  using RankRange = gpu::RankRange;
  static constexpr int kVec = 4;        // elements that a pass looks at together
  static constexpr int kListed = 1024;  // elements of the list, of all blocks together
  static constexpr int kPerThread = kListed / kThreads;
  static constexpr int kCrowd = kListed / 2;  // more elements of a bin than these are divided first
  using Ties = gpu::RowTies<kThreads>;
  using Candidates = gpu::RowCandidates<kThreads, kConfig.candidates, Row::kVec>;
  static constexpr int kAtOnce = kMinBlocks == 1 ? 4 : 2;  // candidates that a lane looks at together
  static constexpr float kRoom = 0.8f * float(kConfig.candidates * (kThreads / gpu::kWarpSize));  // warps get unequal shares
  static constexpr int kSampled = 3;                                                              // vectors of a thread
  static constexpr float kLight = 0.88f;  // of what top_p leaves out: the rest is for the sample's error
  static constexpr float kFewest = 2000;  // candidates: of a peaked row a sample has too few to tell
  static_assert(kPerThread * kThreads == kListed);

  struct List {
    uint64_t ranks[kListed];                   // of this block
    alignas(16) uint64_t sorted[2 * kListed];  // of all blocks, and room to sort them
    union {
      gpu::RankSelectSmem<kThreads> select;
      typename Ties::Smem ties;  // of its elements, listed or not
    };
  };
  /// What blocks of a cluster have sent each other of their lists, if it is little.
  struct Inbox {
    static constexpr int kSlots = kThreads / kCluster / gpu::kWarpSize * gpu::kWarpSize;  // of each: whole warps
    uint64_t ranks[kCluster][kSlots];
    int listed[kCluster];
  };
  struct NoInbox {};
  struct InTurn {
    union {
      typename Bins::Smem bins;
      typename RankBins::Smem rank_bins;
      List list;
      typename Candidates::Window window;
    };
  };
  struct BinsApart {  // where other blocks, or warps, may still need what would lie in their place
    typename Bins::Smem bins;
  };
  struct NoBins {};
  struct Turn {
    union {
      typename RankBins::Smem rank_bins;
      List list;
      typename Candidates::Window window;
    };
  };
  using InPlace = conditional_t<kConfig.bins_apart(), Turn, InTurn>;
  struct Whole {
    typename Ring::Smem ring;
    InPlace turn;
  };
  /// The sums of a sample lie where candidates will; those of the candidates, and the list, where the row was read to.
  struct Few {
    union {
      typename Ring::Smem ring;
      InPlace found;
    };
    union {
      typename Candidates::Smem candidates;
      InPlace turn;
    };
  };
  struct Smem : conditional_t<kFew, Few, Whole>, conditional_t<kConfig.bins_apart(), BinsApart, NoBins> {
    typename Group::Smem group;
    conditional_t<(kCluster > 1), Inbox, NoInbox> inbox;
    uint64_t partial[kThreads / gpu::kWarpSize];
    Prefix prefix;
    uint32_t listed;
  };
  /// Those that lie in this place, or apart.
  __device__ static typename Bins::Smem& bins_of(InPlace& place, Smem& smem) {
    if constexpr (kConfig.bins_apart()) {
      return smem.bins;
    } else {
      return place.bins;
    }
  }

  /// Where blocks share a row, of the whole of it, the same in all of them: asked for before the row's copies, which it would wait for.
  static constexpr bool kAsks = kFew && kCluster > 1;
  struct Sample {
    typename Row::Vector vecs[kSampled];
    __device__ void load(const T* row, int vocab_size) { Row(row, vocab_size, 1, 0).template load_spread<kThreads>(vecs); }
  };
  struct NoSample {
    __device__ void load(const T*, int) {}
  };

  /// Whether nothing lies where the list will before there is one.
  static constexpr bool kListFirst = kConfig.bins_apart() && !kFew;

  const Params& p_;
  Smem& smem_;
  float top_p_;
  conditional_t<kAsks, Sample, NoSample> sample_;
  Ring ring_;
  Group group_;
  Weight weight_;
  uint32_t window_ = Bins::kNoWindow;  // of the bins, where the boundary is likely to be
  uint32_t chunks_ = 0;                // those in which this thread has seen what may be kept, by their numbers' low bits

  __device__ ToppRenormKernel(const Params& p, Smem& smem, int row)
      : p_(p), smem_(smem), ring_(smem.ring, Row(input(p, row), p.vocab_size, kCluster, Group::rank())), group_(smem.group) {}
  __device__ static const T* input(const Params& p, int row) { return static_cast<const T*>(p.input) + row * p.input_stride; }

  __device__ void renorm() {
    const int row = int(blockIdx.x) / kCluster;
    sample_.load(input(p_, row), p_.vocab_size);
    ring_.start();
    top_p_ = p_.top_p.at(row, row);
    typename Bins::Smem& bins = bins_of(smem_.turn, smem_);
    if constexpr (kFew) {
      if (top_p_ < 1 && keep_few(Bins(bins, p_.vocab_size, top_p_))) return;
      __syncthreads();  // all threads have seen why not
      Bins::clear(bins), Bins::clear_window(bins);
      if (threadIdx.x == 0) smem_.listed = 0;
      __syncthreads();
    }
    const typename Bins::Keys keys = look(Bins(bins, p_.vocab_size, top_p_, window_));
    const bool valid = weight_.set(weight_.max, 1);
    Prefix prefix{gpu::kLowestRank, 0};
    if (valid) prefix = keep(keys);
    if (kCluster > 1) gpu::ptx::cluster_arrive_relaxed();  // what other blocks hold has been read
    write(valid, prefix);
  }

  // One look at a row of which few elements are kept: topp_few.cuh.

  /// Keeps what top_p keeps, with one look at the row, if that is few elements. False, in every block: nothing has been written.
  __device__ bool keep_few(const Bins& sample);
  /// f(elements) of the sample: where a row has one block, of what its warps begin with.
  template <class F>
  __device__ void for_each_sampled(const F& f) const;
  /// How many elements of the sample that reach a value lie in the slice of the block that has most of them.
  __device__ int most_of_a_block(float least);
  /// What weighs at least this power of two is heavy: it is listed, as all that reaches `least`.
  __device__ static float heavy_from(float least) { return bit_cast<float>((bit_cast<uint32_t>(least) | 0x7fffffu) + 1); }
  /// What threads have met of a row: its mass, where what is heavy weighs one; the bits of the largest, above those of 1 where something is
  /// no probability, or there was no room; and the mass and number of what is heavy.
  struct Listed {
    uint64_t mass = 0, heavy = 0;
    uint32_t largest = 0, num_heavy = 0;
    __device__ Listed of_warp() const {
      return {gpu::warp_sum(mass), gpu::warp_sum(heavy), gpu::warp_max(largest), gpu::warp_sum(num_heavy)};
    }
  };
  /// Of a row of which list_candidates() says this of what the thread has met. The blocks meet.
  __device__ bool keep_candidates(const Candidates& candidates, float floor, Listed listed);
  /// A value that many elements have, and the mass above it.
  struct Tie {
    uint32_t key;
    uint64_t above;
  };
  /// The prefix, where the list has no room, if it ends among elements of one value: most of those that were listed are such, and so is any
  /// of them. Two rounds of the group, so that it is as it was.
  static __device__ __noinline__ bool choose_crowded(Smem& smem, Group group, Candidates candidates, Weight weight, Row slice, int begin,
                                                     uint64_t needed, uint64_t surely);
  /// Of a candidate's place, in a part of the row that begins there.
  static __device__ int index_in(int begin, int thread, int vec, int j) {
    return begin + (vec * gpu::kWarpSize + thread % gpu::kWarpSize) * Row::kVec + j;
  }
  /// Lists what reaches a value.
  __device__ Listed list_candidates(Candidates& candidates, float least);
  /// By a look that needs no shared memory: one row in a thousand.
  __device__ uint64_t exact_mass();

  /// Whether what this block lists has no room: of many ties all would wait for their turn to see that.
  __device__ bool is_full() const { return *static_cast<volatile uint32_t*>(&smem_.listed) > kListed; }
  /// To what this block lists.
  __device__ void append(List& list, uint64_t rank) {
    const uint32_t at = atomicAdd(&smem_.listed, 1u);
    if (at < kListed) list.ranks[at] = rank;
  }

  /// The maximum, left in weight_, and what the boundary is likely to lie between.
  __device__ typename Bins::Keys look(const Bins& bins) {
    float largest = -kInfinity, sum = 0;
    for_each<true>(ring_, [&](const float(&x)[kVec], int, int) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) largest = fmaxf(largest, x[j]), sum += fabsf(x[j]);  // none is negative
      bins.add(x);
    });
    bins.tell();
    const Seen seen = group_.all(Seen{Bins::fixed(sum), order_key(largest), kCluster > 1 ? bins.tied() : 0});
    weight_.max = value_of_order_key<float>(seen.most);
    typename Bins::Keys keys = bins.find(top_p_, seen.sum);
    // A value that many neighbours have and that may be the boundary's mostly is: what lies beside it need not be told apart.
    const uint32_t tied = kCluster > 1 ? seen.tied : bins.tied();
    const bool among_ties = tied >= keys.least && tied <= keys.most;
    if constexpr (kCluster > 1) {
      // Not where the largest is among them: there all may be equal.
      if (!among_ties && bins.is_crowded(kCrowd) && keys.most < seen.most) {
        keys = divide(ring_, bins, top_p_, seen.sum);
        if constexpr (!kHeld) ring_.turn();
      }
      if (!kConfig.bins_apart()) Group::leave();  // other blocks have read the bins
    }
    if (among_ties) keys = {tied, tied};
    return keys;
  }
  /// Another look, at what lies in bins that are crowded. A function of its own, with what it needs of its own: the instructions that every
  /// row needs stay together.
  static __device__ __noinline__ typename Bins::Keys divide(Ring ring, Bins bins, float top_p, uint64_t total) {
    const Bins within = bins.within();
    for_each(ring, [&](const float(&x)[kVec], int, int) { within.template add<Bins::kCrowded>(x); });
    within.tell();
    Group::sync();
    return within.find_within(top_p, total);
  }
  struct Seen {
    uint64_t sum = 0;
    uint32_t most = 0, tied = 0;  // keys
    __device__ Seen of_warp() const { return {gpu::warp_sum(sum), gpu::warp_max(most), gpu::warp_max(tied)}; }
  };

  /// The prefix that top_p keeps of the row.
  __device__ Prefix keep(const typename Bins::Keys& keys) {
    if constexpr (!kConfig.bins_apart()) __syncthreads();                     // the bins have been read: the list lies there
    const auto keeps_all = [this] { return gpu::ptx::opaque(top_p_) >= 1; };  // asked again: kept, it would spill
    const bool all = keeps_all();                                             // nothing needs listing
    RankRange range{all ? ~uint64_t(0) : order_rank(keys.least, uint32_t(p_.vocab_size - 1)),
                    all ? ~uint64_t(0) : order_rank(keys.most, 0)};
    RankRange listed;
    uint64_t needed = 0;
#pragma unroll 1
    for (;;) {
      const auto [whole, mass_above] = list(range, listed, kListFirst && !needed);
      if (keeps_all()) {
        chunks_ = ~0u;
        return {gpu::kLowestRank, whole};
      }
      if (!needed) range.above = mass_above, needed = needed_mass(top_p_, whole);
      if (choose(smem_, false, weight_, needed, needed, range.above) || narrow(needed, range, listed)) return smem_.prefix;
    }
  }

  /// Lists the elements of a range, and notes the chunks that have them or larger ones, if they are to be copied again. `span`: the
  /// extremes of what this thread has listed. Returns the masses of the row and of what lies above the range. The blocks meet. `empty`: the
  /// counts of places are.
  __device__ typename Group::Pair list(const RankRange& range, RankRange& span, bool empty) {
    if (!empty) {
      Ties::clear(smem_.turn.list.ties);
      __syncthreads();
    }
    gpu::MassSum sum, sum_above;
    // Kept in registers: found again for every vector, as the compiler would, they are a tenth of the loop.
    const auto value_of = [](uint32_t key) { return gpu::ptx::opaque(value_of_order_key<float>(key)); };
    const float least = value_of(key_of_rank(range.low)), most = value_of(key_of_rank(range.high));
    const bool of_values = index_of_rank(range.high) == 0 && index_of_rank(range.low) >= uint32_t(p_.vocab_size - 1);
    span = {~uint64_t(0), 0};
    chunks_ = 0;
    for_each(ring_, [&](const float(&x)[kVec], int first, int chunk) {
      float f[kVec];
      bool counts[kVec];
#pragma unroll
      for (int j = 0; j < kVec; ++j) f[j] = weight_(x[j]), counts[j] = x[j] > most;
      const uint32_t in_range = gpu::hits_of<kVec>([&](int j) { return x[j] >= least && !counts[j]; });
      sum.add(f, counts, sum_above);
      if constexpr (!kHeld) {
        float largest = x[0];
#pragma unroll
        for (int j = 1; j < kVec; ++j) largest = fmaxf(largest, x[j]);
        if (largest >= least) chunks_ |= 1u << chunk % 32;
      }
      gpu::for_each_hit(in_range, [&](int j, uint32_t& hits) {
        const bool full = is_full();
        if (full && of_values && count_hits(x, first, hits, span)) return;
        const int index = first + j;
        const uint64_t rank = order_rank(order_key(gpu::element_of(x, j)), uint32_t(index));
        if (!range.contains(rank)) return;
        span.low = min(span.low, rank), span.high = max(span.high, rank);
        ties_of(smem_.turn.list).add(index);
        if (!full) append(smem_.turn.list, rank);
      });
      __syncwarp();  // or lanes that had none go on alone
    });
    if constexpr (kCluster > 1) send(smem_.turn.list);
    return group_.sum(sum.total(), sum_above.total());
  }
  /// Of hits that the list has no room for, what else is to be known, of all at once: their extremes, and where they are. False: that is
  /// two places.
  __device__ bool count_hits(const float (&x)[kVec], int first, uint32_t& hits, RankRange& span) const {
    const Ties ties = ties_of(smem_.turn.list);
    if (ties.place_of(first) != ties.place_of(first + kVec - 1)) return false;
    float least = kInfinity, most = -kInfinity;
#pragma unroll
    for (int j = 0; j < kVec; ++j)
      if (hits >> j & 1) least = fminf(least, x[j]), most = fmaxf(most, x[j]);
    span.low = min(span.low, order_rank(order_key(least), ~0u)), span.high = max(span.high, order_rank(order_key(most), 0));
    ties.add(first, uint32_t(__popc(hits)));
    hits = 0;
    return true;
  }
  /// What this block has listed, if it is little, to every block: they need not fetch it when they have met.
  __device__ void send(const List& list) {
    __syncthreads();  // the list is complete
    const int to = int(threadIdx.x) / Inbox::kSlots, i = int(threadIdx.x) % Inbox::kSlots, own = Group::rank();
    const int listed = int(smem_.listed);
    if (to >= kCluster) return;
    if (i < listed && listed <= Inbox::kSlots) Group::of(smem_.inbox.ranks[own], to)[i] = list.ranks[i];
    if (i == 0) Group::of(smem_.inbox.listed, to)[own] = listed;
  }

  /// Of few elements, or of a range.
  static __device__ List& list_in(Smem& smem, bool found) {
    if constexpr (kFew) {
      if (found) return smem.found.list;
    }
    return smem.turn.list;
  }
  /// Looks for the boundary in the lists of all blocks, which have met; true: found, in every block. The threads meet.
  static __device__ __noinline__ bool choose(Smem& smem, bool found, Weight weight, uint64_t needed, uint64_t surely, uint64_t above) {
    List& list = list_in(smem, found);
    // Whole warps for each block's list: one block after another took 500 clocks each.
    constexpr int kReaders = Inbox::kSlots;
    const int lane = int(threadIdx.x) % gpu::kWarpSize, rank = int(threadIdx.x) / kReaders;
    const int listed = lane < kCluster ? listed_by(smem, lane) : 0, count = gpu::warp_sum(listed);
    if (count > kListed || needed <= above) return false;  // nobody reads on
    const int first = gpu::warp_sum(lane < rank ? listed : 0), of_rank = __shfl_sync(0xffffffffu, listed, rank);
    const uint64_t* const from = list_of(smem, list, min(rank, kCluster - 1), of_rank);
    const auto mass = [&](uint64_t rank) { return mass_of(weight(value_of_order_key<float>(key_of_rank(rank)))); };
    const auto ends_with = [&](uint64_t rank, uint64_t before, uint64_t own) {
      if (rank && before < needed && before + own >= surely) smem.prefix = {rank, before + own};
    };
    if (count <= gpu::kFewRanks<kThreads>) {
      auto* const pairs = reinterpret_cast<gpu::RankPair*>(list.sorted);
#pragma unroll 1
      for (int i = int(threadIdx.x) % kReaders; i < of_rank; i += kReaders) pairs[first + i] = {from[i], mass(from[i])};
      __syncthreads();  // the pairs are there
      const gpu::WeighedRank own = gpu::weigh_rank<kThreads>(pairs, count);
      ends_with(own.rank, above + own.above, own.mass);
    } else {
#pragma unroll 1
      for (int i = int(threadIdx.x) % kReaders; i < of_rank; i += kReaders) list.sorted[first + i] = from[i];
      gpu::sort_ranks<kThreads>(list.sorted, count, count, 2 * kListed, list.select);
      uint64_t ranks[kPerThread], masses[kPerThread], sum = 0, all;
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        const int at = int(threadIdx.x) * kPerThread + i;
        ranks[i] = at < count ? list.sorted[at] : 0;
        sum += masses[i] = ranks[i] ? mass(ranks[i]) : 0;
      }
      above += gpu::block_sum_before<kThreads>(sum, all, smem.partial);
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        ends_with(ranks[i], above, masses[i]);
        above += masses[i];
      }
    }
    __syncthreads();
    return smem.prefix.rank != 0;
  }
  /// How many elements block `rank` has listed, and where this one finds them.
  static __device__ int listed_by(const Smem& smem, int rank) {
    if constexpr (kCluster > 1) return smem.inbox.listed[rank];
    return int(smem.listed);
  }
  static __device__ const uint64_t* list_of(Smem& smem, List& list, int rank, int listed) {
    if constexpr (kCluster > 1) {
      if (listed <= Inbox::kSlots) return smem.inbox.ranks[rank];
    }
    return Group::of(&list.ranks[0], rank);
  }

  /// Where the list was too long or the boundary not in it: a smaller range that has it, or the prefix itself (true). All blocks go the
  /// same way.
  __device__ bool narrow(uint64_t needed, RankRange& range, RankRange span) {
    if (needed <= range.above) range = span = {range.high + 1, order_rank(order_key(kInfinity), 0)};
    // What was listed may span less than the range: one value, where that is tied. Then all blocks have read this one's list.
    const auto [high, low] = group_.max(span.high, ~span.low);
    if (high >= ~low) range.high = min(range.high, high), range.low = max(range.low, ~low);
    // All elements of that value have been counted: divisions keep values whole, or leave fewer elements than a list takes.
    if (key_of_rank(range.high) == key_of_rank(range.low) &&
        choose_tie(smem_, smem_.turn.list, weight_, ring_.slice(), needed, needed, {key_of_rank(range.high), range.above}))
      return true;
    if (threadIdx.x == 0) smem_.listed = 0;
    const RankBins bins(smem_.turn.rank_bins, weight_);
    while (!bins.divide(needed, range, [this](const auto& f) { for_each(ring_, f); })) {
    }
    return false;
  }

  __device__ Ties ties_of(List& list) const { return {list.ties, p_.vocab_size}; }
  /// The prefix, if it ends among the elements of one value, all of which have been counted, for any mass from `needed` to `surely`. False,
  /// or known, in every block.
  static __device__ bool choose_tie(Smem& smem, List& list, const Weight& weight, const Row& slice, uint64_t needed, uint64_t surely,
                                    const Tie& tie) {
    const float value = value_of_order_key<float>(tie.key);
    const uint64_t each = mass_of(weight(value));
    if (each == 0 || needed <= tie.above) return false;
    const uint64_t wanted = gpu::ties_needed(needed, tie.above, each);
    if (needed != surely && gpu::ties_needed(surely, tie.above, each) != wanted) return false;
    const Ties ties(list.ties, slice.length);
    const auto [own, before] = ties.count();
    const auto [first, all] = ties_of_blocks(smem, own);
    if (all < wanted) return false;
    if (first < wanted && first + own >= wanted) {  // in this block's slice
      const int index = ties.find(uint32_t(wanted - first), before, [&](int i) {
        return i < slice.length && slice.holds(i) && gpu::load_float(slice.base + slice.skip + i) == value;
      });
      if (threadIdx.x == 0)
        for (int r = 0; r < kCluster; ++r) *Group::of(&smem.prefix, r) = {order_rank(tie.key, uint32_t(index)), tie.above + wanted * each};
    }
    Group::sync();  // the prefix has arrived
    return true;
  }
  /// The ties in the slices of blocks before this one, and in all. The blocks meet.
  static __device__ typename Group::Pair ties_of_blocks(Smem& smem, uint32_t own) {
    if constexpr (kCluster == 1) {
      __syncthreads();
      return {0, own};
    } else {
      const int lane = int(threadIdx.x) % gpu::kWarpSize;
      if (int(threadIdx.x) < kCluster) *Group::of(&smem.inbox.listed[Group::rank()], int(threadIdx.x)) = int(own);
      Group::sync();
      const int ties = lane < kCluster ? smem.inbox.listed[lane] : 0;
      return {uint64_t(gpu::warp_sum(lane < Group::rank() ? ties : 0)), uint64_t(gpu::warp_sum(ties))};
    }
  }

  /// What writes it: held, it would cost registers.
  __device__ gpu::RowWriter<Out, kVec> writer() const {
    const int row = int(blockIdx.x) / kCluster;
    return {static_cast<Out*>(p_.output) + row * p_.output_stride, ring_.slice()};
  }
  /// This block's slice of the output; zeros where the row has nothing to weigh.
  __device__ void write(bool valid, const Prefix& prefix) {
    const Prefix::Test kept = prefix.test();
    const float scale = 1.0f / weight_of_mass(prefix.mass);
    const gpu::RowWriter<Out, kVec> writer = this->writer();
    const auto write = [&](const float(&x)[kVec], int first, int) {
      float y[kVec];
#pragma unroll
      for (int j = 0; j < kVec; ++j) y[j] = valid && kept(x[j], first + j) ? weight_(x[j]) * scale : 0.0f;
      writer.write(y, first);
    };
    if constexpr (kHeld) {
      for_each(ring_, write);
    } else {
      ring_.template for_each<kVec>([this](int chunk) { return (chunks_ >> (chunk & 31) & 1) != 0; }, write);
    }
  }

  /// f(elements, index of the first, number of the chunk) for all of this thread's elements. kFirst: of all passes.
  template <bool kFirst = false, class F>
  __device__ static void for_each(Ring& ring, const F& f) {
    if constexpr (kHeld) {
      ring.template for_each<kVec, kFirst>(f);
    } else {
      ring.template for_each<kVec>([](int) { return true; }, f);
    }
  }
};

}  // namespace flashinfer

#include <flashinfer/sampling/gpu/topp_few.cuh>
