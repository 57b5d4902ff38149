// How many probabilities of a row have the same upper bits, counted by a block as it reads them: bounds of the mass above any of them,
// without reading the row again.
//
// A bin is a hundred-and-twenty-eighth of an octave, so the bounds are within 0.8 % of the mass that was counted. Probabilities below
// 2^-17, the equal share of a vocabulary of 2^17, are not counted: they are most of a row, and seldom drawn.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/core/number.hpp>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

template <int kThreads>
class ProbCounts {
  static constexpr int kShift = 16, kBins = 18 << (23 - kShift);  // of the 18 octaves below 2
  static constexpr float kLeast = 7.62939453125e-6f;              // 2^-17
  static constexpr uint32_t kFirst = bit_cast<uint32_t>(kLeast) >> kShift;
  static_assert(kFirst + kBins == bit_cast<uint32_t>(2.0f) >> kShift);

 public:
  struct Smem {
    uint32_t counts[kBins + kWarpSize];  // and what each lane adds to for a probability that has no bin
  };
  __device__ explicit ProbCounts(Smem& smem) : smem_(smem) {}

  /// The threads meet before the first add().
  __device__ void clear() const {
    for (int bin = int(threadIdx.x); bin < kBins; bin += kThreads) smem_.counts[bin] = 0;
  }
  __device__ void add(float x) const {
    // Without a branch: of a warp's elements some always have one. 512 rows, H100: 138 us instead of 143.
    atomicAdd(&smem_.counts[x >= kLeast ? bin_of(x) : kBins + threadIdx.x % kWarpSize], 1u);
  }

  struct Bounds {
    float least, most;
  };
  /// This thread's share of the mass above `value` that this block has seen, `value` and what shares its bin included in the most; `seen`:
  /// the mass that the thread has seen. After all threads have met.
  __device__ Bounds above(float value, float seen) const {
    const bool counted = value >= kLeast;
    const int own = counted ? int(bin_of(value)) : -1;
    Bounds sum{0, counted ? 0.0f : seen};
    for (int bin = int(threadIdx.x); bin < kBins; bin += kThreads) {
      const float count = float(smem_.counts[bin]);
      if (bin > own) sum.least += count * edge(bin);
      if (counted && bin >= own && count > 0) sum.most += count * (bin + 1 < kBins ? edge(bin + 1) : kInfinity);
    }
    return sum;
  }

 private:
  Smem& smem_;

  static __device__ uint32_t bin_of(float x) { return min((bit_cast<uint32_t>(x) >> kShift) - kFirst, uint32_t(kBins - 1)); }
  static __device__ float edge(int bin) { return bit_cast<float>((kFirst + uint32_t(bin)) << kShift); }
};

}  // namespace flashinfer::gpu
