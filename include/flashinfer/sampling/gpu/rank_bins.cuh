// Where in a range of ranks a row's mass is reached: exact masses in bins of ranks, for rows that sums by upper bits do not tell enough of.
// Read once for every division of the range, by which it becomes 512 times smaller.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/core/row_order.hpp>
#include <flashinfer/gpu/rank_select.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>
#include <flashinfer/sampling/gpu/row_hits.cuh>
#include <flashinfer/sampling/gpu/row_weight.cuh>

namespace flashinfer::gpu {

/// Ranks that are looked at, and the mass above them.
struct RankRange {
  uint64_t low, high, above = 0;
  __device__ bool contains(uint64_t rank) const { return rank >= low && rank <= high; }
};

template <int kThreads, class Group, int kCluster>
class RankBins {
  static constexpr int kBits = 9, kBins = 1 << kBits;
  static_assert(kThreads >= kBins);

 public:
  struct Smem {
    uint32_t low[kBins], high[kBins];  // of the masses, which have two words
    uint64_t partial[kThreads / kWarpSize], above;
    int found;
  };
  __device__ RankBins(Smem& smem, const RowWeight<RowValues::probs>& weight) : smem_(smem), weight_(weight) {}

  /// Makes of a range the bin of it where `needed` is reached; false: that is below, and the range is all that is. for_each(f) calls
  /// f(elements, index of the first, ...) for all elements of this thread, by whole warps. The blocks meet.
  template <class ForEach>
  __device__ bool divide(uint64_t needed, RankRange& range, const ForEach& for_each) const {
    const int t = int(threadIdx.x);
    if (t < kBins) smem_.low[t] = smem_.high[t] = 0;
    if (t == 0) smem_.found = -1;
    __syncthreads();  // the bins are empty
    int shift = max(64 - kBits - __clzll(int64_t(range.high - range.low)), 0);
    if ((range.high >> shift) - (range.low >> shift) >= kBins) ++shift;  // bins are aligned: those of ties are what a warp sees at once
    add(range, shift, for_each);
    Group::sync();  // the bins are complete
    const int bin = kBins - 1 - t;
    uint64_t mass = 0, all;
    if (t < kBins) {
#pragma unroll 1
      for (int r = 0; r < kCluster; ++r) mass += *Group::of(&smem_.low[bin], r) + (uint64_t(*Group::of(&smem_.high[bin], r)) << 32);
    }
    const uint64_t above = range.above + block_sum_before<kThreads>(mass, all, smem_.partial);
    if (above < needed && above + mass >= needed) smem_.found = bin, smem_.above = above;
    Group::sync();  // the bins have been read
    const int found = smem_.found;
    if (found < 0) {
      // What weighs less than 2^-42 has no mass.
      const float least = fmaxf(weight_.max * 2.2737368e-13f, 1.4e-45f);
      range = {order_rank(order_key(least), ~0u), range.low - 1, range.above + all};
      return false;
    }
    const uint64_t first = (range.low >> shift) + uint64_t(found);
    range = {max(range.low, first << shift), min(range.high, ((first + 1) << shift) - 1), smem_.above};
    __syncthreads();  // what was found has been read: its place may be another's now
    return true;
  }

 private:
  Smem& smem_;
  const RowWeight<RowValues::probs>& weight_;

  /// Of the elements of a range in bins of 2^shift ranks. Where a thread's or the warp's elements are ties of one bin, they are added at
  /// once.
  template <class ForEach>
  __device__ void add(const RankRange& range, int shift, const ForEach& for_each) const {
    const float least = value_of_order_key<float>(key_of_rank(range.low)), most = value_of_order_key<float>(key_of_rank(range.high));
    const auto bin_of = [&](uint64_t rank) { return int((rank >> shift) - (range.low >> shift)); };
    for_each([&]<int kVec>(const float(&x)[kVec], int first, int) {
      bool ties = x[0] >= least;
#pragma unroll
      for (int j = 1; j < kVec; ++j) ties &= x[j] == x[0];
      if (__any_sync(0xffffffffu, ties)) {
        const uint64_t rank = order_rank(order_key(x[0]), uint32_t(first)), last = rank - (kVec - 1);
        ties = ties && range.contains(rank) && range.contains(last) && bin_of(rank) == bin_of(last);
        const int bin = ties ? bin_of(rank) : -1;
        const bool as_first = x[0] == __shfl_sync(0xffffffffu, x[0], 0) && ties;
        const bool same_bin = bin == __shfl_sync(0xffffffffu, bin, 0);
        const bool all = __all_sync(0xffffffffu, as_first && same_bin);
        if (ties && (!all || threadIdx.x % kWarpSize == 0)) add(bin, (all ? kVec * kWarpSize : kVec) * mass_of(weight_(x[0])));
      }
      if (ties) return;
      for_each_hit(hits_of<kVec>([&](int j) { return x[j] >= least && x[j] <= most; }), [&](int j, uint32_t) {
        const float value = element_of(x, j);
        const uint64_t rank = order_rank(order_key(value), uint32_t(first + j));
        if (range.contains(rank)) add(bin_of(rank), mass_of(weight_(value)));
      });
    });
  }
  __device__ void add(int bin, uint64_t mass) const {
    const uint32_t part = uint32_t(mass), before = atomicAdd(&smem_.low[bin], part);
    const uint32_t carried = uint32_t(mass >> 32) + (before + part < before ? 1u : 0u);
    if (carried) atomicAdd(&smem_.high[bin], carried);
  }
};

}  // namespace flashinfer::gpu
