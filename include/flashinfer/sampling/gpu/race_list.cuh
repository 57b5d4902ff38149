// The race of a row of probabilities among the few that top_p may keep: listed as the row is read, so that who wins, whether it is kept,
// and who wins else, takes no other look at it.
//
// A sample of the row leaves a value that what top_p keeps hardly lies below. Elements that reach it are listed by the warp that meets
// them; the others are only summed: a third of what it takes to race and to be counted. What is listed must weigh more than top_p of the
// row, and fit; else, which the sample mostly knows before, the whole row races (race_kernel.cuh), with that value and one that top_p
// surely keeps all above.
// H200, us at 128 / 512 rows, top_p 0.9: rows with some hundred elements that matter 24 / 71, before 48 / 141 (normal logits of deviation
// 8) and 38 / 114 (zipf of 1.8). Rows that race as a whole take up to 6 % more than without a sample: flat ones, and those whose few
// elements lie together, of which it sees too many or none. (With room for normal logits of deviation 3, one element in 19, these take
// 51 / 123, by counts 35 / 107. Of rows of logits a sample does not know the mass: most may lie in what it does not have.)
#pragma once

#include <flashinfer/gpu/rank_select.cuh>
#include <flashinfer/sampling/gpu/race.cuh>
#include <flashinfer/sampling/gpu/row_candidates.cuh>

namespace flashinfer::gpu {

/// A warp has room for kRoom of them.
template <class Slice, class Group, int kThreads, int kCluster, int kRoom>
class RaceList {
  // Bins of the sample: a sixteenth of an octave, over the 32 octaves below 2. (Those of prob_bins.cuh are eight times as many, to find a
  // boundary: 16 KB, which the counts of the rows that race as a whole leave no room for.)
  static constexpr int kShift = 19, kPerOctave = 1 << (23 - kShift), kBins = 32 * kPerOctave;
  static constexpr int kFirst = (128 - 32) * kPerOctave;  // upper bits of the least probability that has a bin
  static constexpr int kOwn = kBins / kThreads, kWarps = kThreads / kWarpSize;
  static_assert(kOwn * kThreads == kBins);
  static constexpr int kVec = Slice::kVec;
  using Candidates = RowCandidates<kThreads, kRoom, Slice::kStep>;

 public:
  struct Smem {
    typename Candidates::Smem candidates;
    uint32_t counts[kBins];
    uint64_t partial[kWarps];
    int low;       // the bin of the least that is listed, and how many sampled elements are not below it
    int high;      // the least bin of what is surely kept
    uint32_t bar;  // bits of the best score so far
  };
  __device__ RaceList(Smem& smem, Slice& slice, Group& group) : smem_(smem), slice_(slice), group_(group), candidates_(smem.candidates) {}

  /// Before begin().
  static __device__ void clear(Smem& smem) {
    for (int bin = int(threadIdx.x); bin < kBins; bin += kThreads) smem.counts[bin] = 0;
    if (threadIdx.x == 0) smem.low = -1, smem.high = kBins, smem.bar = 0;
  }

  /// Begins a look at the row, and says whether what top_p may keep seems to be few. The threads meet.
  __device__ bool begin(float top_p) {
    float x[Slice::kSampled];
    const float times = slice_.sample(x);
    slice_.begin();
    __syncthreads();  // all counts are empty; meanwhile the sample is on its way
#pragma unroll
    for (int j = 0; j < Slice::kSampled; ++j)
      if (x[j] > 0) atomicAdd(&smem_.counts[min(max(int(bit_cast<uint32_t>(x[j]) >> kShift) - kFirst, 0), kBins - 1)], 1u);
    __syncthreads();                         // the counts are complete
    constexpr float kUnit = 17179869184.0f;  // 2^34: masses, with counts in their low bits; no sum of 4096 elements below 2 overflows
    constexpr int kCountBits = 16;
    uint64_t own[kOwn], sum = 0, all;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int bin = int(threadIdx.x) * kOwn + i;
      const uint32_t count = smem_.counts[bin];
      sum += own[i] = uint64_t(float(count) * edge(bin) * (1 + 0.5f / kPerOctave) * kUnit) << kCountBits | count;
    }
    uint64_t below = block_sum_before<kThreads>(sum, all, smem_.partial);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int bin = int(threadIdx.x) * kOwn + i;
      // What lies below the bin, and its standard deviation some five times: as if all of it were elements as large as the bin's. (A row
      // that is misjudged races again as a whole: H200, us of 512 rows one of which was so by 2.5 below 87.5, now 83.2; of 128 the same.)
      const float mass = float(below >> kCountBits) * (1 / kUnit) * times, most = times * edge(bin);
      const int others = int((all - below) & ((1 << kCountBits) - 1));
      const float error = 3.0f * sqrtf(most * fmaxf(mass, most));
      if (mass + error <= 1 - top_p) atomicMax(&smem_.low, bin << kCountBits | others);
      // Not where too little is surely kept to be beaten seldom.
      if (mass - error >= 1 - top_p && mass <= 1 - 0.75f * top_p) atomicMin(&smem_.high, bin);
      below += own[i];
    }
    __syncthreads();
    const int low = smem_.low;
    low_ = low < 0 ? 0.0f : edge(low >> kCountBits), high_ = low < 0 || smem_.high == kBins ? low_ : edge(smem_.high);
    return low >= 0 && float(low & ((1 << kCountBits) - 1)) * times < 0.7f * float(kRoom * kWarps * kCluster);
  }

  /// Reads the row, after begin(). False: the whole row must race, as one with a NaN or a negative element does.
  __device__ bool list(float top_p, float error) {
    float total = 0;
    uint32_t most = 0;  // bits, in the order of what is not negative, and all else above
    int place = Candidates::first_place();
    slice_.for_each_begun([&](const float(&x)[kVec], int) {
#pragma unroll
      for (int i = 0; i < kVec; i += 4) {
        const float four[4] = {x[i], x[i + 1], x[i + 2], x[i + 3]};
        uint32_t largest = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) largest = max(largest, bit_cast<uint32_t>(four[j])), total += four[j];
        most = max(most, largest);
        if (__any_sync(0xffffffffu, largest >= bit_cast<uint32_t>(low_))) candidates_.add(four, place + i, low_);
      }
      place = Candidates::template next_place<kVec>(place);
    });
    float listed = 0;
    if (candidates_.fit()) for_each([&](float x, int) { listed += x; });
    const bool lost = !candidates_.fit() || most > bit_cast<uint32_t>(kInfinity);
    const Seen seen = group_.all(Seen{total, listed, order_key(bit_cast<float>(most)), lost ? 1u : 0u});
    most_ = seen.most, total_ = seen.total;
    return !seen.lost && seen.listed > (fmaxf(top_p, 0.0f) + error) * seen.total;
  }
  /// The largest of what the sample says top_p surely keeps nothing of, if the row sums to one; 0: it does not know.
  __device__ float low() const { return low_ > 0 ? bit_cast<float>(bit_cast<uint32_t>(low_) - 1) : 0.0f; }
  /// From which on it surely keeps all, if the row sums to one; low(): the sample does not know.
  __device__ float high() const { return high_ > low_ ? high_ : low(); }
  /// order_key of the row's largest element.
  __device__ uint32_t most() const { return most_; }

  /// The best of what is listed up to this rank, or 0; by exact scores. The blocks meet.
  template <class Noise>
  __device__ uint64_t race(const Noise& noise, uint64_t floor) {
    uint64_t best = 0;
    const BestScore bar(smem_.bar);
    for_each([&](float x, int index) {
      if (order_rank(order_key(x), uint32_t(index)) < floor) return;
      const uint32_t bits = noise.bits_of(uint32_t(index));
      if (!(x >= bar.bar() * float(bits >> 16))) return;
      const float score = race_score(finite_prob(x), bits);
      best = max(best, race_entry(score, uint32_t(index)));
      bar.raise(score);
    });
    const uint64_t winner = group_.max(best);
    if (threadIdx.x == 0) smem_.bar = 0;
    return winner;
  }
  /// What is listed before a rank, and the row. The blocks meet.
  struct Share {
    float before = 0, total = 0;
  };
  __device__ Share share_before(uint64_t rank) {
    float before = 0;
    for_each([&](float x, int index) {
      if (order_rank(order_key(x), uint32_t(index)) > rank) before += x;
    });
    return {group_.all(Sum{before}).mass, total_};
  }

 private:
  Smem& smem_;
  Slice& slice_;
  Group& group_;
  Candidates candidates_;
  float low_ = 0, high_ = 0, total_ = 0;
  uint32_t most_ = 0;

  struct Seen {
    float total = 0, listed = 0;
    uint32_t most = 0, lost = 0;
    __device__ Seen of_warp() const { return {warp_sum(total), warp_sum(listed), warp_max(most), warp_max(lost)}; }
  };
  struct Sum {
    float mass = 0;
    __device__ Sum of_warp() const { return {warp_sum(mass)}; }
  };
  /// f(element, index) for what this warp has listed.
  template <class F>
  __device__ void for_each(const F& f) const {
    candidates_.template for_each<1>([this](int thread, int n, int j) { return slice_.index_of(thread, n, j); },
                                     [&](const float(&x)[1], const auto& index_of_one) { f(x[0], index_of_one(0)); });
  }
  static __device__ float edge(int bin) { return bit_cast<float>(uint32_t(kFirst + bin) << kShift); }
};

}  // namespace flashinfer::gpu
