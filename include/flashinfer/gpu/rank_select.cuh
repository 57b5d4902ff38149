// Selection among 64-bit ranks (core/row_order.hpp) by all threads of a one-dimensional block: the k-th greatest by radix, sums before a
// thread, sorting. Integers only, and no result depends on the order in which threads come.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// Sum of x over the threads before this one; `total` over all. Two barriers; the caller has one more between two calls.
template <int kThreads, class T>
FLASHINFER_DEVICE T block_sum_before(T x, T& total, T (&partial)[kThreads / kWarpSize]) {
  constexpr int kWarps = kThreads / kWarpSize;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  T sum = x;
#pragma unroll
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const T below = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += below;
  }
  if (lane == kWarpSize - 1) partial[warp] = sum;
  __syncthreads();  // every warp's sum is there
  const T of_warp = lane < kWarps ? partial[lane] : T(0);
  total = warp_sum(of_warp);
  return warp_sum(lane < warp ? of_warp : T(0)) + sum - x;
}

/// A key that at least k and, but for equal ones, at most k + slack of the threads' keys reach; 0, which every key reaches, if there is no
/// greater one. `reached`: how many do. Bit by bit, a barrier that counts for each: a third of what a histogram costs, where each thread
/// has one key.
FLASHINFER_DEVICE uint32_t block_kth_key(uint32_t own, int k, int slack, int& reached) {
  uint32_t key = 0;
  reached = int(blockDim.x);
  for (uint32_t bit = 1u << 31; bit && reached > k + slack; bit >>= 1) {
    const int count = __syncthreads_count(own >= (key | bit));
    if (count >= k) key |= bit, reached = count;
  }
  return key;
}

/// Shared memory of block_about_kth_key.
template <int kThreads>
struct KthKeySmem {
  static constexpr int kMost = 4;                               // keys of a warp
  static constexpr int kMostWanted = 3 * kThreads / kWarpSize;  // k up to which they are enough
  uint32_t keys[kMost * (kThreads / kWarpSize)], found;
};

/// A key that at least k of the threads' keys reach, and few more if they come in no order: the k-th among the two or four greatest of each
/// warp. `reached`: how many do. In four barriers where block_kth_key() takes one a bit. All threads have the same.
template <int kThreads>
FLASHINFER_DEVICE uint32_t block_about_kth_key(uint32_t own, int k, int& reached, KthKeySmem<kThreads>& smem) {
  constexpr int kWarps = kThreads / kWarpSize;
  const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
  const int most = k <= kWarps ? 2 : KthKeySmem<kThreads>::kMost, count = most * kWarps;
  uint32_t rest = own;
#pragma unroll 1
  for (int i = warp; i < count; i += kWarps) {
    const uint32_t greatest = warp_max(rest);
    if (lane == 0) smem.keys[i] = greatest;
    if (lane == __ffs(int(__ballot_sync(0xffffffffu, rest == greatest))) - 1) rest = 0;
  }
  __syncthreads();  // the keys are there
  // Every warp finds the places of as many.
#pragma unroll 1
  for (int i = warp; i < count; i += kWarps) {
    const uint32_t key = smem.keys[i];
    int above = 0, reach = 0;
#pragma unroll 1
    for (int j = lane; j - lane < count; j += kWarpSize) {
      const uint32_t other = j < count ? smem.keys[j] : 0u;
      above += __popc(__ballot_sync(0xffffffffu, other > key));
      reach += __popc(__ballot_sync(0xffffffffu, other >= key));
    }
    if (lane == 0 && above < k && reach >= k) smem.found = key;  // equal keys may find it too
  }
  __syncthreads();  // one is found
  const uint32_t key = smem.found;
  reached = __syncthreads_count(own >= key);
  return key;
}

inline constexpr int kRankDigitBits = 11;

template <int kThreads>
struct RankSelectSmem {
  static constexpr int kBins = 1 << kRankDigitBits;
  alignas(16) uint32_t histogram[kBins];
  uint64_t most[kThreads / kWarpSize], least[kThreads / kWarpSize];
  int partial[kThreads / kWarpSize];
  int digit, above, count;  // the k-th rank's bin: ranks in the bins above it, and in it
  int listed;               // of them
};

/// A rank that at least k and at most k + slack of the block's ranks reach: with slack 0 the k-th greatest, but for low digits that
/// decide nothing. 0 if there are fewer than k. With lowest = 32 the value alone decides: smem.above and smem.count tell of ties.
/// each(f) calls f(rank) for all ranks of this thread; it is called once a digit, up to six times.
template <int kThreads, class Each>
FLASHINFER_DEVICE uint64_t select_rank(int k, int slack, int lowest, const Each& each, RankSelectSmem<kThreads>& smem) {
  constexpr int kPerThread = RankSelectSmem<kThreads>::kBins / kThreads;
  static_assert(kPerThread * kThreads == RankSelectSmem<kThreads>::kBins && kPerThread <= 8);
  // Thread t has the t-th bins from the top.
  uint32_t* bins = smem.histogram + (kThreads - 1 - int(threadIdx.x)) * kPerThread;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) bins[i] = 0;
  __syncthreads();  // the histogram is empty

  uint64_t prefix = 0;
  int above = 0;
  for (int top = 64;;) {
    const int bottom = top == 42 ? 32 : max(top - kRankDigitBits, 0);  // the value's digits, then the index's
    const uint32_t mask = (1u << (top - bottom)) - 1;
    each([&](uint64_t rank) {
      if (top == 64 || rank >> top == prefix) atomicAdd(&smem.histogram[uint32_t(rank >> bottom) & mask], 1u);
    });
    __syncthreads();  // the histogram is complete
    int counts[kPerThread], sum = 0, total;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) counts[i] = int(bins[i]), sum += counts[i], bins[i] = 0;
    int before = above + block_sum_before<kThreads>(sum, total, smem.partial);
    if (above + total < k) return 0;  // on the first digit only, and in all threads
    if (before < k && before + sum >= k) {
#pragma unroll
      for (int i = kPerThread - 1; i >= 0; --i) {
        if (before < k && before + counts[i] >= k) {
          smem.digit = (kThreads - 1 - int(threadIdx.x)) * kPerThread + i;
          smem.above = before;
          smem.count = counts[i];
        }
        before += counts[i];
      }
    }
    __syncthreads();  // the bin is known, the histogram empty again
    prefix = prefix << (top - bottom) | uint32_t(smem.digit);
    above = smem.above;
    if (bottom == lowest || above + smem.count <= k + slack) return prefix << bottom;
    top = bottom;
  }
}

/// Sorts places 0 to count - 1 by order(i, j), i < j, which exchanges the two if they are the wrong way round. Bitonic, with the
/// first step of every merge folded so that all exchanges go one way and any count will do.
/// Pairs within 64 neighbours are one warp's.
template <int kThreads, class Order>
FLASHINFER_DEVICE void block_sort(int count, const Order& order) {
  int padded = 1;
  while (padded < count) padded *= 2;
  bool local = false;  // did the last step stay inside warps?
#pragma unroll 1
  for (int size = 2; size <= padded; size *= 2)
#pragma unroll 1
    for (int span = size; span >= 2; span /= 2) {
      const bool stays = span <= 2 * kWarpSize;
      if (local && stays)
        __syncwarp();
      else
        __syncthreads();
      local = stays;
#pragma unroll 1
      for (int pair = int(threadIdx.x); pair < padded / 2; pair += kThreads) {
        const int offset = pair & (span / 2 - 1), first = (pair - offset) * 2;
        const int i = first + offset, j = span == size ? first + span - 1 - offset : i + span / 2;
        if (j < count) order(i, j);
      }
    }
  __syncthreads();
}

/// Ranks whose places are counted: some count^2 / 40 clocks of an SM.
template <int kThreads>
inline constexpr int kFewRanks = min(192, kThreads / 2);

/// One of a few different ranks and its place in their order, greatest first; -1: this thread has none.
struct alignas(16) RankPair {
  uint64_t first, second;
};
struct PlacedRank {
  uint64_t rank;
  int place;
};
/// Lanes for each of a few, of all threads: 2 to 32.
template <int kThreads>
FLASHINFER_DEVICE int team_lanes(int count) {
  int team = 2;
  while (team < kWarpSize && 2 * team * count <= kThreads) team *= 2;
  return team;
}
/// Every rank is one thread's, whose lanes are its team: each counts some of the ranks above. `ranks`: aligned to 16 bytes, seen by all.
template <int kThreads>
FLASHINFER_DEVICE PlacedRank place_rank(const uint64_t* ranks, int count) {
  const int team = team_lanes<kThreads>(count);
  const int i = int(threadIdx.x) / team, lane = int(threadIdx.x) % team;
  const uint64_t own = i < count ? ranks[i] : ~0ull;
  int place = 0;
  const auto* pairs = reinterpret_cast<const RankPair*>(ranks);
#pragma unroll 4
  for (int j = lane; j < count / 2; j += team) {
    const RankPair pair = pairs[j];
    place += pair.first > own;
    place += pair.second > own;
  }
  if (count % 2 && lane == 0) place += ranks[count - 1] > own;
  for (int offset = team / 2; offset > 0; offset /= 2) place += __shfl_xor_sync(0xffffffffu, place, offset);
  return {own, i < count && lane == 0 ? place : -1};
}

/// One of a few different ranks with masses, and the mass of those above it; rank 0: this thread has none.
struct WeighedRank {
  uint64_t rank, mass, above;
};
/// Every pair of a rank and its mass is one thread's, as in place_rank().
template <int kThreads>
FLASHINFER_DEVICE WeighedRank weigh_rank(const RankPair* pairs, int count) {
  const int team = team_lanes<kThreads>(count);
  const int i = int(threadIdx.x) / team, lane = int(threadIdx.x) % team;
  const RankPair own = i < count ? pairs[i] : RankPair{~0ull, 0};
  uint64_t above = 0;
#pragma unroll 4
  for (int j = lane; j < count; j += team) {
    const RankPair pair = pairs[j];
    above += pair.first > own.first ? pair.second : 0;
  }
  for (int offset = team / 2; offset > 0; offset /= 2) above += __shfl_xor_sync(0xffffffffu, above, offset);
  return {i < count && lane == 0 ? own.first : 0, own.second, above};
}

/// Which bin of a complete histogram, the first ones the greatest, has the k-th: smem.digit, smem.above and smem.count when the threads
/// have met, here. Returns how many all bins have; if that is less than k, none is found.
template <int kThreads>
FLASHINFER_DEVICE int find_bin(int k, RankSelectSmem<kThreads>& smem) {
  constexpr int kPerThread = RankSelectSmem<kThreads>::kBins / kThreads;
  const int first = int(threadIdx.x) * kPerThread;
  int counts[kPerThread], sum = 0, total;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) counts[i] = int(smem.histogram[first + i]), sum += counts[i];
  int before = block_sum_before<kThreads>(sum, total, smem.partial);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    if (before < k && before + counts[i] >= k) smem.digit = first + i, smem.above = before, smem.count = counts[i];
    before += counts[i];
  }
  __syncthreads();
  return total;
}

/// Bins of equal width for ranks between two extremes, the greatest first.
struct EvenBins {
  uint64_t most;
  int shift;
  FLASHINFER_DEVICE int operator()(uint64_t rank) const { return int((most - rank) >> shift); }
};
/// Counts ranks that all threads see in bins between their extremes. When the threads have met, here, the histogram is complete.
template <int kThreads>
FLASHINFER_DEVICE EvenBins count_in_bins(const uint64_t* ranks, int count, RankSelectSmem<kThreads>& smem) {
  constexpr int kPerThread = RankSelectSmem<kThreads>::kBins / kThreads, kWarps = kThreads / kWarpSize;
  const int thread = int(threadIdx.x), lane = thread % kWarpSize, warp = thread / kWarpSize;
  uint64_t most = 0, least = ~uint64_t(0);
#pragma unroll 1
  for (int i = thread; i < count; i += kThreads) most = max(most, ranks[i]), least = min(least, ranks[i]);
  most = warp_max(most), least = warp_min(least);
  if (lane == 0) smem.most[warp] = most, smem.least[warp] = least;
  for (int i = 0; i < kPerThread; ++i) smem.histogram[thread * kPerThread + i] = 0;
  if (thread == 0) smem.count = 0, smem.listed = 0;
  __syncthreads();  // extremes of all warps are known, the bins are empty
  most = warp_max(smem.most[lane % kWarps]), least = warp_min(smem.least[lane % kWarps]);
  const EvenBins bin_of{most, max(64 - kRankDigitBits - int(__clzll(static_cast<long long>(most - least))), 0)};
#pragma unroll 1
  for (int i = thread; i < count; i += kThreads) atomicAdd(&smem.histogram[bin_of(ranks[i])], 1u);
  __syncthreads();
  return bin_of;
}

/// What k of different ranks that all threads see reach, 1 <= k <= count: by bins, and by counting in the one that has the k-th. Half of
/// the barriers that sorting takes.
template <int kThreads>
FLASHINFER_DEVICE uint64_t kth_rank(const uint64_t* ranks, int count, int k, RankSelectSmem<kThreads>& smem) {
  constexpr int kMostInBin = 256;
  const int thread = int(threadIdx.x);
  const EvenBins bin_of = count_in_bins<kThreads>(ranks, count, smem);
  find_bin<kThreads>(k, smem);  // and the histogram is no longer needed
  const auto for_each = [&](const auto& f) {
#pragma unroll 1
    for (int i = thread; i < count; i += kThreads) f(ranks[i]);
  };
  if (smem.count > kMostInBin) {
    __syncthreads();  // every thread has seen that
    return select_rank<kThreads>(k, 0, 0, for_each, smem);
  }
  uint64_t* const list = reinterpret_cast<uint64_t*>(smem.histogram);
  for_each([&](uint64_t rank) {
    if (bin_of(rank) == smem.digit) list[atomicAdd(&smem.listed, 1)] = rank;
  });
  __syncthreads();  // the list is complete
  // Few mostly, but of 16-bit values a hundred may share a bin. Less code than place_rank(): what is run once waits for its instructions.
#pragma unroll 1
  for (int i = thread / kWarpSize; i < smem.count; i += kThreads / kWarpSize) {
    int place = smem.above;
#pragma unroll 1
    for (int j = thread % kWarpSize; j - thread % kWarpSize < smem.count; j += kWarpSize)
      place += __popc(__ballot_sync(0xffffffffu, j < smem.count && list[j] > list[i]));
    if (place == k - 1 && thread % kWarpSize == 0) smem.most[0] = list[i];
  }
  __syncthreads();  // it is found
  return smem.most[0];
}

/// Puts the first `wanted` of different ranks in shared memory in their places, greatest first; behind them lies anything. Few: every place
/// is the number of ranks above, counted by a team of lanes. Where `room` has place for those wanted beside all: in bins of equal width
/// between the extremes, then each within its bin by counting, which takes a fifth of the time of a sorting network (H200: 17 us for 2048
/// ranks). Ranks of equal values are spread by their indices.
template <int kThreads>
FLASHINFER_DEVICE void sort_ranks(uint64_t* ranks, int count, int wanted, int room, RankSelectSmem<kThreads>& smem) {
  constexpr int kPerThread = RankSelectSmem<kThreads>::kBins / kThreads, kMostInBin = 256;
  const int thread = int(threadIdx.x);
  __syncthreads();  // the ranks are there
  if (count <= kFewRanks<kThreads>) {
    const PlacedRank placed = place_rank<kThreads>(ranks, count);
    __syncthreads();  // the ranks have been read
    if (placed.place >= 0) ranks[placed.place] = placed.rank;
    __syncthreads();
    return;
  }
  wanted = min(wanted, count);
  if (count + wanted <= room) {
    const EvenBins bin_of = count_in_bins<kThreads>(ranks, count, smem);
    int counts[kPerThread], sum = 0, total;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      counts[i] = int(smem.histogram[thread * kPerThread + i]);
      sum += counts[i];
    }
    int before = block_sum_before<kThreads>(sum, total, smem.partial);
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      smem.histogram[thread * kPerThread + i] = uint32_t(before);
      if (before < wanted && counts[i] > kMostInBin) smem.count = 1;
      if (before < wanted && before + counts[i] >= wanted) smem.above = before + counts[i];
      before += counts[i];
    }
    __syncthreads();  // the bins' starts are known, and how many ranks the bins with those wanted have
    const int placed = smem.above;
    if (smem.count == 0 && count + placed <= room) {
      uint64_t* binned = ranks + count;
#pragma unroll 1
      for (int i = thread; i < count; i += kThreads) {
        const int place = int(atomicAdd(&smem.histogram[bin_of(ranks[i])], 1u));
        if (place < placed) binned[place] = ranks[i];
      }
      __syncthreads();  // the ranks lie in their bins, whose starts have become ends
#pragma unroll 1
      for (int i = thread; i < placed; i += kThreads) {
        const uint64_t rank = binned[i];
        const int bin = bin_of(rank), end = int(smem.histogram[bin]);
        const int start = bin > 0 ? int(smem.histogram[bin - 1]) : 0;
        int place = start;
#pragma unroll 1
        for (int j = start; j < end; ++j) place += binned[j] > rank;
        ranks[place] = rank;
      }
      __syncthreads();
      return;
    }
  }
  block_sort<kThreads>(count, [&](int i, int j) {
    const uint64_t a = ranks[i], b = ranks[j];
    if (a < b) ranks[i] = b, ranks[j] = a;
  });
}

}  // namespace flashinfer::gpu
