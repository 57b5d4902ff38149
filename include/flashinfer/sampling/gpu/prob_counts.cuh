// How many probabilities of a row have the same upper bits, counted by a block as it reads them: bounds of the mass above any of them,
// without reading the row again.
//
// A bin is a hundred-and-twenty-eighth of an octave, so the bounds are within 0.8 % of the mass that was counted. Probabilities below
// 2^-17, the equal share of a vocabulary of 2^17, are not counted: they are most of a row, and seldom drawn. Nor is what is not below 2.
// Sums (prob_bins.cuh) would bound it closer, but the instructions that they take for every element cost a race more than the rows that are
// read again without them.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/core/number.hpp>

namespace flashinfer::gpu {

template <int kThreads>
class ProbCounts {
  static constexpr int kShift = 16, kBins = 18 << (23 - kShift);  // of the 18 octaves below 2
  static constexpr uint32_t kFirst = 110u << (23 - kShift);       // upper bits of 2^-17

 public:
  static constexpr float kLeast = 7.62939453125e-6f, kEnd = 2;
  static_assert(kFirst == bit_cast<uint32_t>(kLeast) >> kShift && kFirst + kBins == bit_cast<uint32_t>(kEnd) >> kShift);

  struct Smem {
    uint32_t counts[kBins + 1];  // and what has no bin, which nobody reads
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

 private:
  Smem& smem_;

  /// Bits of what is less than the first bin's, or negative, wrap around to more than the last one's. One addition with a minimum (SM90).
  static __device__ int bin_of(float x) {
    return int(min(bit_cast<uint32_t>(x) - (kFirst << kShift), uint32_t(kBins) << kShift) >> kShift);
  }
  static __device__ float edge(int bin) { return bit_cast<float>((kFirst + uint32_t(bin)) << kShift); }
};

}  // namespace flashinfer::gpu
