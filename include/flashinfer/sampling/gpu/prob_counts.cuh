// How many probabilities of a row have the same upper bits, counted by its blocks as they read them: where top_p of the mass is reached,
// but for a bin or two, without reading the row again.
//
// Probabilities below 2^-17, the equal share of a vocabulary of 2^17, are not counted: they are most of a row, and seldom drawn. Nor is
// what is not below 2. Sums (prob_bins.cuh) would tell it closer, but the instructions that they take for every element cost a race more
// than the rows that are read again without them.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/core/number.hpp>
#include <flashinfer/gpu/rank_select.cuh>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer::gpu {

/// A bin is one part in 2^kBits of an octave, and the mass above it known as well.
template <int kThreads, class Group, int kCluster, int kBits>
class ProbCounts {
  static constexpr int kShift = 23 - kBits, kPerOctave = 1 << kBits, kOctaves = 18, kBins = kOctaves * kPerOctave;
  static constexpr uint32_t kFirst = 110u << kBits;  // upper bits of 2^-17
  static constexpr int kWarps = kThreads / kWarpSize;
  static_assert(kThreads >= kPerOctave && kPerOctave >= kWarpSize);
  static_assert(kMaxVocabSize * (2 * kPerOctave - 1) < int64_t(1) << 32);  // what an octave weighs
  // Masses in integers are in units of 2^-kPoint: the least of the first bin's weighs kPerOctave. That of the row is known better.
  static constexpr int kPoint = 17 + kBits;
  static constexpr float kFine = 256, kTooMuch = 65536;

 public:
  static constexpr float kLeast = 7.62939453125e-6f, kEnd = 2;
  static_assert(kFirst == bit_cast<uint32_t>(kLeast) >> kShift && kFirst + kBins == bit_cast<uint32_t>(kEnd) >> kShift);

  struct Smem {
    uint32_t counts[kBins + 1];             // and what has no bin, which nobody reads
    uint64_t told[kCluster][kOctaves + 1];  // by each block: of an octave the least mass and the number of elements; the whole mass
    uint64_t partial[kWarps];
    int first, last;
  };
  __device__ explicit ProbCounts(Smem& smem) : smem_(smem) {}

  /// The threads meet before the first add().
  __device__ void clear() const {
    for (int bin = int(threadIdx.x); bin < kBins; bin += kThreads) smem_.counts[bin] = 0;
  }
  /// Without a branch, which some element of a warp always takes; an addition of one takes those of a warp that hit one word at once. 512
  /// rows, H100: 131 us; a branch around it 143, a word for each lane's own 140.
  __device__ void add(float x) const { atomicAdd(&smem_.counts[bin_of(x)], 1u); }

  struct Bounds {
    float least, most;
  };
  /// This thread's share of the mass above `value` that this block has seen, `value` and what shares its bin included in the most; `seen`:
  /// the mass that the thread has seen. Of a row whose elements are below kEnd, after all threads have met.
  __device__ Bounds above(float value, float seen) const {
    const bool counted = value >= kLeast;
    const int own = counted ? bin_of(value) : -1;
    Bounds sum{0, counted ? 0.0f : seen};
    for (int bin = int(threadIdx.x); bin < kBins; bin += kThreads) {
      const float count = float(smem_.counts[bin]);
      if (bin > own) sum.least += count * edge(bin);
      if (counted && bin >= own) sum.most += count * edge(bin + 1);
    }
    return sum;
  }

  /// What this block has seen, to every block; `seen`: the mass that this thread has. The threads meet; a barrier of the group follows.
  __device__ void tell(float seen) const {
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    const uint64_t of_warp = warp_sum(uint64_t(fminf(seen, kTooMuch) * (float(1 << kPoint) * kFine)));  // NaN too is too much
    if (lane == 0) smem_.partial[warp] = of_warp;
    __syncthreads();
    for (int octave = warp; octave <= kOctaves; octave += kWarps) {
      uint64_t told = 0;
      if (octave < kOctaves) {
        uint32_t mass = 0, count = 0;
#pragma unroll
        for (int i = 0; i < kPerOctave; i += kWarpSize) {
          const uint32_t of_bin = smem_.counts[octave * kPerOctave + i + lane];
          mass += of_bin * uint32_t(kPerOctave + i + lane), count += of_bin;
        }
        told = uint64_t(warp_sum(mass)) << 32 | warp_sum(count);
      } else {
        told = warp_sum(lane < kWarps ? smem_.partial[lane] : 0);
      }
      if (lane < kCluster) Group::of(smem_.told[Group::rank()], lane)[octave] = told;
    }
  }
  /// Where top_p of the mass is reached: what lies in bins below `first` is not kept, what lies in bins above `last` is.
  struct Edges {
    int first, last;
  };
  /// After that barrier, in every thread. `error`: of the mass of the row, relative to it; its elements are below kEnd. The blocks meet:
  /// each reads the counts of all in the octave in question, or two.
  __device__ Edges find(float top_p, float error) const {
    const int lane = int(threadIdx.x) % kWarpSize, octave = max(kOctaves - 1 - lane, 0);
    uint64_t whole = 0, mass = 0, count = 0;
#pragma unroll
    for (int r = 0; r < kCluster; ++r) {
      const uint64_t told = lane < kOctaves ? smem_.told[r][octave] : 0;
      mass += told >> 32, count += uint32_t(told), whole += smem_.told[r][kOctaves];
    }
    const float total = float(whole) / kFine;
    if (!(total < kTooMuch * float(1 << kPoint))) return {-1, kBins};
    // A bin's mass is at least that of its least elements, and at most that of its largest.
    const Crossing low = crossing(mass << octave, uint64_t(total * (top_p + error)));
    const Crossing high = crossing((mass + count) << octave, uint64_t(total * fmaxf(top_p - error, 0.0f)));
    if (threadIdx.x == 0) smem_.first = smem_.last = -1;
    __syncthreads();
#pragma unroll 1
    for (int in = high.octave; in >= 0; in = low.octave) {
      const int place = kPerOctave - 1 - int(threadIdx.x), bin = in * kPerOctave + place;
      uint64_t own = 0, all;
      if (place >= 0) {
#pragma unroll
        for (int r = 0; r < kCluster; ++r) own += *Group::of(&smem_.counts[bin], r);
      }
      constexpr int kHalf = 24;  // both sums in one
      const uint64_t weighed = own * uint64_t(kPerOctave + place) << kHalf | own;
      const uint64_t above = block_sum_before<kThreads>(weighed, all, smem_.partial), with = above + weighed;
      const auto least = [&](uint64_t x) { return low.above + (x >> kHalf << in); };
      const auto most = [&](uint64_t x) { return high.above + (((x >> kHalf) + (x & ((1 << kHalf) - 1))) << in); };
      if (in == low.octave && least(above) <= low.goal && least(with) > low.goal) smem_.first = bin;
      if (in == high.octave && most(above) <= high.goal && most(with) > high.goal) smem_.last = bin;
      __syncthreads();
      if (in == low.octave) break;
    }
    Group::leave();
    return {smem_.first, smem_.last};
  }
  /// The bin of a value, -1 of what is less than the first one's.
  static __device__ int bin_or_none(float x) { return x >= kLeast ? bin_of(x) : -1; }
  /// The least value of a bin.
  static __device__ float edge(int bin) { return bit_cast<float>((kFirst + uint32_t(bin)) << kShift); }

 private:
  Smem& smem_;

  /// Bits of what is less than the first bin's, or negative, wrap around to more than the last one's. One addition with a minimum (SM90).
  static __device__ int bin_of(float x) {
    return int(min(bit_cast<uint32_t>(x) - (kFirst << kShift), uint32_t(kBins) << kShift) >> kShift);
  }
  /// Where a sum exceeds the goal: in this octave, -1 for none, above which there is this mass.
  struct Crossing {
    int octave;
    uint64_t above, goal;
  };
  /// Lanes have the masses of octaves, the largest first.
  static __device__ Crossing crossing(uint64_t mass, uint64_t goal) {
    const int lane = int(threadIdx.x) % kWarpSize;
    uint64_t sum = mass;
#pragma unroll
    for (int by = 1; by < kWarpSize; by *= 2) {
      const uint64_t other = __shfl_up_sync(0xffffffffu, sum, by);
      if (lane >= by) sum += other;
    }
    const uint32_t past = __ballot_sync(0xffffffffu, sum > goal);
    const int first = past ? __ffs(int(past)) - 1 : kOctaves;
    return {kOctaves - 1 - first, __shfl_sync(0xffffffffu, sum - mass, first), goal};
  }
};

}  // namespace flashinfer::gpu
