// How many elements of a row have weights with the same upper bits, counted by its blocks as they read them: where top_p of the mass is
// reached, but for a bin or two, without reading the row again.
//
// A weight here is a probability, or near it: 2^(x * c - anchor) of a logit x, where the row seems to weigh 2^anchor by a sample of it.
// What is below 2^-20 is not counted: an eighth of the equal share of a vocabulary of 2^17. Nor is what a sample misses by 43 octaves, or a
// probability that is not below 2. (From 2^-17 on is no faster: 512 rows of deviation 3 108 us, but those of 1 158 instead of 106, because
// the boundary lay below.) Sums (prob_bins.cuh) would tell it closer, but the instructions that they take for every element cost a race
// more than the rows that are read again without them.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/core/number.hpp>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/rank_select.cuh>
#include <flashinfer/sampling/gpu/octaves.cuh>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer::gpu {

/// A bin is one part in 2^kBits of an octave.
template <RowValues kValues, int kThreads, class Group, int kCluster, int kBits>
class WeightCounts {
  static constexpr int kShift = 23 - kBits, kPerOctave = 1 << kBits, kOctaves = RaceConfig::octaves(kValues);
  static constexpr int kBelow = kValues == RowValues::probs ? 20 : 21;  // octaves below 1; a sample may be wrong by one
  static constexpr int kBins = kOctaves * kPerOctave, kWarps = kThreads / kWarpSize;
  static constexpr uint32_t kFirst = uint32_t(127 - kBelow) << kBits;          // upper bits of the least weight
  static constexpr int kAtOnce = kOctaves < kWarpSize ? kOctaves : kWarpSize;  // octaves in which top_p is looked for, by a lane each
  static constexpr int kBlocks = kCluster <= 2 ? kCluster : 1;                 // of those that tell() each other
  static_assert(kThreads >= kPerOctave && kPerOctave >= kWarpSize);
  static_assert(kMaxVocabSize * (2 * kPerOctave - 1) < int64_t(1) << 32);  // what an octave weighs, in units that find() explains
  static_assert(uint64_t(kMaxVocabSize) * (2 * kPerOctave) < ~uint64_t(0) >> (kAtOnce - 1));  // and all of them

 public:
  static constexpr float kLeast = bit_cast<float>(kFirst << kShift);
  static constexpr float kEnd = bit_cast<float>((kFirst + uint32_t(kBins)) << kShift);
  /// How far a weight may be from the exact one, relative to it: those of logits have roundings of the exponent and of ex2.
  static constexpr float kSlack = kValues == RowValues::probs ? 0.0f : 1e-5f;

  struct Smem {
    alignas(16) uint32_t counts[kBins + 1];  // and what has no bin, which nobody reads
    uint64_t told[kBlocks][kOctaves];        // by each block: of an octave the least mass and the number of elements
    float seen[kBlocks];                     // by each block
    float seen_by_warp[kWarps];
    uint64_t partial[kWarps];
    int first, last;
  };
  __device__ explicit WeightCounts(Smem& smem) : smem_(smem) {}

  /// The threads meet before the first add().
  __device__ void clear() const {
    for (int four = int(threadIdx.x); four < kBins / 4; four += kThreads) reinterpret_cast<uint4*>(smem_.counts)[four] = {};
  }
  /// Without a branch, which some element of a warp always takes; an addition of one takes those of a warp that hit one word at once. 512
  /// rows, H100: 131 us; a branch around it 143, a word for each lane's own 140.
  __device__ void add(float weight) const {
    // Not known to be a shift: shifting back what has been shifted takes a mask, and another instruction.
    atomicAdd(&smem_.counts[ptx::opaque(bin_of(weight))], 1u);
  }

  struct Bounds {
    float least, most;
  };
  /// This thread's share of the mass above `weight` that this block has seen, `weight` and what shares its bin included in the most;
  /// `seen`: the mass that the thread has seen. Of a row whose `largest` is below kEnd, after all threads have met.
  __device__ Bounds above(float weight, float largest, float seen) const {
    const int own = bin_or_none(weight * (1 - kSlack)), next = bin_or_none(weight * (1 + kSlack)), last = top_bin(largest);
    Bounds sum{0, own >= 0 ? 0.0f : seen};
    for (int bin = max(own, 0) + int(threadIdx.x); bin <= last; bin += kThreads) {
      const float count = float(smem_.counts[bin]);
      if (bin > next) sum.least += count * edge(bin);
      if (own >= 0) sum.most += count * edge(bin + 1);
    }
    return sum;
  }

  /// What this block has seen, to every block; `seen`: the mass that this thread has. The threads meet; a barrier of the group follows.
  __device__ void tell(float seen) const {
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    seen = warp_sum(seen);
    if (lane == 0) smem_.seen_by_warp[warp] = seen;
    __syncthreads();
    if (warp == kWarps - 1) {
      seen = warp_sum(lane < kWarps ? smem_.seen_by_warp[lane] : 0.0f);
      if (lane < kBlocks) Group::of(smem_.seen, lane)[Group::rank()] = seen;
    }
    for (int octave = warp; octave < kOctaves; octave += kWarps) {
      uint32_t mass = 0, count = 0;
#pragma unroll
      for (int i = 0; i < kPerOctave; i += kWarpSize) {
        const uint32_t of_bin = smem_.counts[octave * kPerOctave + i + lane];
        mass += of_bin * uint32_t(kPerOctave + i + lane), count += of_bin;
      }
      const uint64_t told = uint64_t(warp_sum(mass)) << 32 | warp_sum(count);
      if (lane < kBlocks) Group::of(smem_.told[Group::rank()], lane)[octave] = told;
    }
  }
  /// Where top_p of the mass is reached: what lies in bins below `first` is not kept, what lies in bins above `last` is.
  struct Edges {
    int first, last;
  };
  static constexpr Edges kUnknown{-1, kBins};
  /// After that barrier, in every thread. `error`: of the mass of the row, relative to it; `largest`: its largest weight. The blocks meet:
  /// each reads the counts of all in the octave in question, or two.
  __device__ Edges find(float top_p, float largest, float error) const {
    if (!(largest < kEnd)) return kUnknown;
    // The octaves below the largest, so that sums have 64 bits.
    const int least_octave = max(top_bin(largest) / kPerOctave - (kAtOnce - 1), 0);
    const int lane = int(threadIdx.x) % kWarpSize, octave = max(kAtOnce - 1 - lane, 0);
    uint64_t mass = 0, count = 0;
    float total = 0;
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) {
      const uint64_t told = lane < kAtOnce ? smem_.told[r][least_octave + octave] : 0;
      mass += told >> 32, count += uint32_t(told), total += smem_.seen[r];
    }
    // In units of what one element of the least bin weighs in one part in kPerOctave.
    total *= bit_cast<float>(uint32_t(127 + kBelow + kBits - least_octave) << 23);
    if (!(total < 4.6e18f)) return kUnknown;  // 2^62
    // A bin's mass is at least that of its least elements, and at most that of its largest.
    const OctaveCrossing low = OctaveSums(mass << octave, kAtOnce).crossing(uint64_t(total * (top_p + error)));
    const OctaveCrossing high = OctaveSums((mass + count) << octave, kAtOnce).crossing(uint64_t(total * fmaxf(top_p - error, 0.0f)));
    if (threadIdx.x == 0) smem_.first = -1, smem_.last = least_octave * kPerOctave - 1;
    __syncthreads();
#pragma unroll 1
    for (int in = high.octave; in >= 0; in = low.octave) {
      const int place = kPerOctave - 1 - int(threadIdx.x), bin = (least_octave + in) * kPerOctave + place;
      uint64_t own = 0, all;
      if (place >= 0) {
#pragma unroll
        for (int r = 0; r < kBlocks; ++r) own += *Group::of(&smem_.counts[bin], r);
      }
      constexpr int kHalf = 24;  // both sums in one
      const uint64_t weighed = own * uint64_t(kPerOctave + place) << kHalf | own;
      const uint64_t above = block_sum_before<kThreads>(weighed, all, smem_.partial), with = above + weighed;
      const auto least = [&](uint64_t x) { return x >> kHalf << in; };
      const auto most = [&](uint64_t x) { return ((x >> kHalf) + (x & ((1 << kHalf) - 1))) << in; };
      if (low.is_in(in, least(above), least(with) - least(above))) smem_.first = bin;
      if (high.is_in(in, most(above), most(with) - most(above))) smem_.last = bin;
      __syncthreads();
      if (in == low.octave) break;
    }
    Group::leave();
    return {smem_.first, smem_.last};
  }
  /// The bin of a weight, -1 of what is less than the first one's.
  static __device__ int bin_or_none(float weight) { return weight >= kLeast ? bin_of(weight) : -1; }
  /// The least weight of a bin.
  static __device__ float edge(int bin) { return bit_cast<float>((kFirst + uint32_t(bin)) << kShift); }

 private:
  Smem& smem_;

  /// Bits of what is less than the first bin's, or negative, wrap around to more than the last one's. One addition with a minimum (SM90).
  static __device__ int bin_of(float weight) {
    return int(min(bit_cast<uint32_t>(weight) - (kFirst << kShift), uint32_t(kBins) << kShift) >> kShift);
  }
  /// Above which there is nothing.
  static __device__ int top_bin(float largest) { return min(bin_or_none(largest * (1 + kSlack)), kBins - 1); }
};

}  // namespace flashinfer::gpu
