// A row of a race (race_kernel.cuh): this block's slice of it, the blocks that share it, what its elements weigh, and whether top_p keeps
// the one that wins: whether what lies before it weighs less than top_p of the row.
//
// Of a row of which a sample says that few elements may be kept, these race alone (race_list.cuh). Else:
// Bounds of that mass come from counts of what weighs about the same, taken as the row is read (weight_counts.cuh); where rows are many
// these tell at once for all elements where top_p ends. What they do not decide, two rows in a thousand, and rows of which nothing was
// counted, are looked at again, first for sums of floats; what these do not decide has exact masses. Where there are edges,
// that look tells of all elements of its value at once, of which there are many where logits are rounded, and which it counts and does not
// sum (row_ties.cuh; H200, 128 rows of equal elements 48 us, with sums of them 64; rounded ones 49 and 87).
#pragma once

#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/sampling/gpu/race.cuh>
#include <flashinfer/sampling/gpu/race_list.cuh>
#include <flashinfer/sampling/gpu/race_slice.cuh>
#include <flashinfer/sampling/gpu/row_ties.cuh>
#include <flashinfer/sampling/gpu/weight_counts.cuh>

namespace flashinfer::gpu {

enum class Verdict { kept, refused, unknown };

template <RaceConfig kConfig>
class RaceRow {
  static constexpr bool kLogits = kConfig.values == RowValues::logits;

 public:
  /// With counts: pairs of blocks find the edges of what is kept, larger clusters ask for each element that seems to win.
  static constexpr bool kCounts = kConfig.counts(), kEdges = kCounts && kConfig.cluster <= 2, kAsks = kCounts && !kEdges;
  static constexpr bool kLists = kConfig.lists();
  using Group = RowGroup<kConfig.threads, kConfig.cluster, kAsks ? 4 : 2, kEdges ? RowShare::memory : RowShare::rounds>;
  using Weight = RaceWeight<kConfig.values>;
  using Slice = RaceSlice<kConfig>;

 private:
  static constexpr int kVec = Slice::kRowVec;  // elements that another look takes together
  using Counts = WeightCounts<kConfig.values, kConfig.threads, Group, kConfig.cluster, kCounts ? kConfig.count_bits : 7>;
  // Masses in messages: 27 bits behind the point. A thread that does not know says kMost: more than all others say, who know of no more
  // than one for each element, and so that all may say it.
  static constexpr float kUnit = 134217728.0f, kMost = 4194304.0f;
  static_assert(kMost >= kMaxVocabSize && double(kMost) * kUnit * kConfig.threads * kConfig.cluster <= 4611686018427387904.0);
  struct Nothing {};

 public:
  using List = RaceList<Slice, Group, kConfig.threads, kConfig.cluster, kConfig.candidates>;
  using Ties = RowTies<kConfig.threads>;
  /// A rank that is not kept, nor anything after it, and one that is, with all before it.
  struct Known {
    uint64_t refused, kept;
  };
  static constexpr Known kNothing{0, ~uint64_t(0)};
  struct Smem {
    typename Slice::Smem slice;
    typename Group::Smem group;
    union {
      conditional_t<kCounts, typename Counts::Smem, Nothing> counts;
      conditional_t<kEdges, typename Ties::Smem, Nothing> ties;  // when the edges are known
    };
    conditional_t<kLists, typename List::Smem, Nothing> list;
    conditional_t<kEdges, Known, Nothing> known;
    conditional_t<kEdges, Weight, Nothing> weight;  // for learn(), up to which it would not stay in registers
  };

  Slice slice;
  Group group;
  Weight weight;  // of a logit, its scale; the rest when the row's maximum is known

  __device__ RaceRow(Smem& smem, const void* row, int vocab_size)
      : slice(smem.slice, row, vocab_size, Group::rank()), group(smem.group), smem_(smem) {}

  /// The threads meet before the first count().
  __device__ static void clear(Smem& smem) {
    if constexpr (kCounts) Counts(smem.counts).clear();
    if constexpr (kLists) List::clear(smem.list);
    if constexpr (kEdges)
      if (threadIdx.x == 0) smem.known = kNothing;
  }
  /// Logits: log2 of what the row seems to weigh, the same in all of its blocks: by a sample, its largest element for itself and the rest
  /// for as many as they are fewer than the row.
  __device__ void set_anchor() {
    float x[Slice::kSampled];
    const float times = slice.sample(x);
    Sample sample;  // NaN, of what lies outside, changes nothing
#pragma unroll
    for (int j = 0; j < Slice::kSampled; ++j) x[j] *= weight.scale, sample.exponent = fmaxf(sample.exponent, x[j]);
#pragma unroll
    for (int j = 0; j < Slice::kSampled; ++j) sample.weight += ptx::ex2(fmaxf(x[j] - sample.exponent, -200.0f));
    sample = group.all_of_block(sample);
    const float exponent = sample.exponent + ptx::lg2(1 + fmaxf(sample.weight - 1, 0.0f) * times);
    constexpr float kMostExact = 8388608.0f;  // an anchor is an integer
    // Of a row that is -inf but for a few elements those are near 0, if anywhere.
    if (sample.exponent > -kLargestFloat) anchor_ = floorf(fminf(fmaxf(exponent, -kMostExact), kMostExact));
  }
  __device__ float anchor() const { return anchor_; }
  /// Of sums of floats, relative to them.
  __device__ float roundings() const { return fmaxf(1e-4f, 6e-8f * float(slice.elements())); }
  /// Counts an element of the row. Returns what it weighs: a probability, or 2^(x * scale - anchor) of a logit.
  __device__ float count(float x) {
    const float own = weigh(x);
    see(own);
    Counts(smem_.counts).add(own);
    return own;
  }
  /// Adds to the mass that this thread has seen; count() takes negative probabilities for what they are, so see() them again after
  /// forget().
  __device__ void see(float weight) { seen_ += weight; }
  __device__ void forget() { seen_ = 0; }
  /// When all have been counted; a round of the group follows.
  __device__ void tell() const {
    if constexpr (kEdges) Counts(smem_.counts).tell(seen_);
  }

  /// What races if it is few.
  __device__ List list() { return List(smem_.list, slice, group); }

  /// The row's maximum is known. False: there is nothing to weigh.
  __device__ bool set_weight(float largest, float temperature) {
    const bool valid = weight.set(largest, temperature);
    if constexpr (kEdges)
      if (threadIdx.x == 0) smem_.weight = weight;
    return valid;
  }

  // After that.

  /// The least element that belongs to the mass that top_p is a share of. Those before a rank that min_p keeps do.
  __device__ void set_least_in_total(float least) { least_in_total_ = least; }
  /// At once for all that may win, by counts: H100, us at 64 / 128 / 512 rows 24.4 / 37.7 / 112, by sums for each that wins 26.9 / 40.5 /
  /// 115, with a top_p of 0.5 26.4 / 42.6 / 124 and 36.5 / 51.5 / 130. In larger clusters sums are told sooner. The blocks meet.
  __device__ void find_edges(float top_p) {
    const auto [first, last] = Counts(smem_.counts).find(fmaxf(top_p, 0.0f), weigh(weight.max), roundings());
    // Logits whose weights are surely beyond a bin's edge, unless they are too coarse for that around a large anchor.
    const auto beside = [&](float edge, float sign) {
      return kLogits ? (ptx::lg2(edge * (1 + sign * 1e-4f)) + anchor_) / weight.scale : edge;
    };
    if (threadIdx.x == 0) {
      Known known = kNothing;
      const float above = Counts::edge(max(first, 0)), below = Counts::edge(last + 1);
      const float refused = beside(above, -1), kept = beside(below, 1);
      if (first >= 0 && (!kLogits || weigh(refused) * (1 + Counts::kSlack) < above))
        known.refused = order_rank(order_key(refused), ~0u) - 1;
      if (last < Counts::kUnknown.last && weigh(kept) * (1 - Counts::kSlack) >= below) known.kept = order_rank(order_key(kept), ~0u);
      smem_.known = known;
    }
    __syncthreads();
  }
  /// With edges: a rank that surely is not kept, nor anything after it.
  __device__ uint64_t refused() const {
    if constexpr (kEdges) return smem_.known.refused;
    return 0;
  }
  /// With edges: whether it surely keeps what is greater than this.
  __device__ bool surely_keeps(float x) const { return order_rank(order_key(x), ~0u) >= smem_.known.kept; }
  /// Whether top_p of the row keeps an element of this rank, or of what min_p keeps of the row. In all blocks.
  __device__ bool keeps(uint64_t rank, float top_p) {
    Verdict verdict = Verdict::unknown;
    if constexpr (kEdges) verdict = rank <= smem_.known.refused ? Verdict::refused : rank >= smem_.known.kept ? Verdict::kept : verdict;
    return verdict == Verdict::unknown ? keeps_by_row(rank, top_p) : verdict == Verdict::kept;
  }
  /// By another look at the row, or two. Exact masses of logits take 40 us a row, of probabilities 15; sums of floats 15.
  __device__ bool keeps_by_row(uint64_t rank, float top_p) {
    Verdict verdict = Verdict::unknown;
    if constexpr (!kCounts || kLogits) verdict = by_sums(rank, top_p);
    if (verdict == Verdict::unknown) return by_masses(rank, top_p);
    const bool kept = verdict == Verdict::kept;
    if constexpr (kEdges) tell(smem_, kept ? Known{smem_.known.refused, rank} : Known{rank, smem_.known.kept});
    return kept;
  }

  /// Whether top_p keeps an element before which, of what a list says, there is so much.
  __device__ bool keeps(uint64_t rank, float top_p, float before, float total) {
    const float needed = fmaxf(top_p, 0.0f) * total, error = roundings() * total;
    return before + error < needed || (!(before - error > needed) && keeps(rank, top_p));
  }

  /// What this thread knows of the mass before an element: by how much it is at most too much for it to be kept, and at least enough for it
  /// to be refused. Sums over the group give the verdict.
  __device__ typename Group::Pair by_counts(uint64_t rank, float top_p) const {
    const float winner = weigh(value_of_order_key<float>(key_of_rank(rank))), largest = weigh(weight.max);
    const auto [least, most] = Counts(smem_.counts).above(winner, largest, seen_);
    const float unit = kLogits ? 1 / largest : weight.scale, share = fmaxf(top_p, 0.0f);
    const float total = ptx::opaque(seen_) * unit, own = Group::rank() == 0 && threadIdx.x == 0 ? winner * unit : 0.0f;
    float too_much = fminf(most * unit, kMost) - own - (share - roundings()) * total;
    float enough = least * unit - (share + roundings()) * total;
    if (!(total < kMost && largest < Counts::kEnd)) too_much = kMost, enough = -kMost;
    return {uint64_t(int64_t(too_much * kUnit)), uint64_t(int64_t(enough * kUnit))};
  }
  __device__ static Verdict of_sums(uint64_t too_much, uint64_t enough) {
    return int64_t(too_much) < 0 ? Verdict::kept : int64_t(enough) > 0 ? Verdict::refused : Verdict::unknown;
  }

 private:
  Smem& smem_;
  float anchor_ = 0;                   // of logits that are counted
  float seen_ = 0;                     // with counts: the mass of what this thread has read
  float least_in_total_ = -kInfinity;  // min_p

  /// The weight of a sample, relative to its largest.
  struct Sample {
    float exponent = -kLargestFloat, weight = 0;
    __device__ Sample of_warp() const {
      const float largest = warp_max(exponent);
      return {largest, warp_sum(weight * ptx::ex2(exponent - largest))};
    }
  };
  __device__ float weigh(float x) const { return kLogits ? ptx::ex2(PortableScalar::fma(x, weight.scale, -anchor_)) : x; }
  __device__ bool in_total(float x) const { return !kConfig.min_p || x >= least_in_total_; }

  /// A fifth of the instructions of a logit's exact mass, half of a probability's.
  __device__ Verdict by_sums(uint64_t rank, float top_p) {
    float total = 0, before = 0;
    const RowPrefix::Test is_before = RowPrefix{rank + 1, 0}.test();
    slice.for_each_backwards([&](const float(&x)[kVec], int first) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        const float f = kLogits ? ptx::ex2((fminf(x[j], weight.max) - weight.max) * weight.scale) : weight(x[j]);
        if (in_total(x[j])) total += f;
        if (is_before(x[j], first + j)) before += f;
      }
    });
    const auto sums = group.sum(uint64_t(total * kUnit), uint64_t(before * kUnit));
    const float whole = float(sums.first), part = float(sums.second), error = roundings() * (whole + kUnit);
    const float needed = fmaxf(top_p, 0.0f) * whole;
    return part + error < needed ? Verdict::kept : part - error > needed ? Verdict::refused : Verdict::unknown;
  }
  __device__ bool by_masses(uint64_t rank, float top_p) {
    if constexpr (kEdges) {
      group = learn(smem_, slice, group, value_of_order_key<float>(key_of_rank(rank)), top_p);
      return rank > smem_.known.refused;
    }
    MassSum sum, before;
    const RowPrefix::Test is_before = RowPrefix{rank + 1, 0}.test();
    slice.for_each_backwards([&](const float(&x)[kVec], int first) {
      float f[kVec];
      bool counts[kVec];
#pragma unroll
      for (int j = 0; j < kVec; ++j) f[j] = weight(in_total(x[j]) ? x[j] : -kInfinity), counts[j] = is_before(x[j], first + j);
      sum.add(f, counts, before);
    });
    const auto [total, mass] = group.sum(sum.total(), before.total());
    return mass < needed_mass(ptx::opaque(top_p), total);  // not as a double for all looks
  }
  /// Which elements of this value are kept; the group as it leaves it. The blocks meet. A function of its own, for all that ask: it takes
  /// as long to compile as the rest.
  static __device__ __noinline__ Group learn(Smem& smem, Slice slice, Group group, float value, float top_p) {
    __syncthreads();  // all threads know the edges
    const Weight weight = smem.weight;
    Ties::clear(smem.ties);
    __syncthreads();  // nothing is counted
    const Ties ties(smem.ties, slice.length());
    MassSum sum, sum_above;
    slice.for_each_backwards([&](const float(&x)[kVec], int first) {
      bool others = false;
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        if (x[j] == value) ties.add(first + j);
        others |= x[j] != value;
      }
      if (!others) return;  // rows of equal elements need no sums
      float f[kVec];
      bool counts[kVec];
#pragma unroll
      for (int j = 0; j < kVec; ++j) f[j] = weight(x[j] == value ? -kInfinity : x[j]), counts[j] = x[j] > value;
      sum.add(f, counts, sum_above);
    });
    const auto [beside, above] = group.sum(sum.total(), sum_above.total());
    const auto [own, before] = ties.count();
    const int rank = Group::rank();
    const uint64_t counts = group.sum(threadIdx.x == 0 ? uint64_t(own) << 32 * rank : 0);
    // Of 32 bits: with more, the caller would spill.
    const uint32_t all = uint32_t(counts) + uint32_t(counts >> 32), others = rank > 0 ? uint32_t(counts) : 0;  // those of blocks before
    const uint64_t each = mass_of(weight(value)), needed = needed_mass(ptx::opaque(top_p), beside + all * each);
    const uint64_t kept = above >= needed ? 0 : each ? ties_needed(needed, above, each) : all;
    const uint32_t key = order_key(value);
    Known known;
    if (kept == 0) {
      known = {order_rank(key, 0), smem.known.kept};
    } else if (kept >= all) {
      known = {smem.known.refused, order_rank(key, ~0u)};
    } else {
      uint64_t last = 0;  // the last one that is kept, which one block has
      if (kept > others && kept - others <= own)
        last = order_rank(key, uint32_t(ties.find(uint32_t(kept) - others, before, [&](int index) { return slice.has(index, value); })));
      last = group.max(last);
      known = {last - 1, last};
    }
    tell(smem, known);
    return group;
  }
  __device__ static void tell(Smem& smem, const Known& known) {
    __syncthreads();  // all threads have read what was known
    if (threadIdx.x == 0) smem.known = known;
    __syncthreads();
  }
};

}  // namespace flashinfer::gpu
