// Where the mass of a row reaches a goal, as far as sums over octaves of its weights tell: what bins finer than that are looked at in one
// octave only (weight_counts.cuh, prob_bins.cuh).
#pragma once

#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// The octave in which a sum exceeds the goal, counted from the least, -1 for none; what lies above it.
struct OctaveCrossing {
  int octave;
  uint64_t above, goal;

  /// For bins of this octave, one a thread: whether the sum exceeds the goal in one of this mass, where those above it in the octave have
  /// the mass `before`.
  __device__ bool is_in(int in, uint64_t before, uint64_t mass) const {
    return in == octave && above + before <= goal && above + before + mass > goal;
  }
};
/// What octaves weigh together with those above, by lanes.
class OctaveSums {
 public:
  /// Lanes have the masses of `count` octaves, the largest first, others 0.
  __device__ OctaveSums(uint64_t mass, int count) : mass_(mass), sum_(mass), count_(count) {
    const int lane = int(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int by = 1; by < kWarpSize; by *= 2) {
      const uint64_t other = __shfl_up_sync(0xffffffffu, sum_, by);
      if (lane >= by) sum_ += other;
    }
  }
  __device__ OctaveCrossing crossing(uint64_t goal) const {
    const uint32_t past = __ballot_sync(0xffffffffu, sum_ > goal);
    const int first = past ? __ffs(int(past)) - 1 : count_;
    return {count_ - 1 - first, __shfl_sync(0xffffffffu, sum_ - mass_, first % kWarpSize), goal};
  }

 private:
  uint64_t mass_, sum_;
  int count_;
};

}  // namespace flashinfer::gpu
