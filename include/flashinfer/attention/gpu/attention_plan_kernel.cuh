// Plans attention where the lengths are: what plan_work() computes, bit for bit, by one block. Called by gpu/attention.hpp; its twin is
// plan_work() of attention/attention_plan.hpp.
//
// Bound by: latency. Two or three dependent loads of lengths, a scan over the requests, a search per worker.
// Threads:  requests are taken kChunk at a time; a team of threads counts the units of one request's query tiles. Then a thread per piece
//           finds its request by bisection of the chunk's prefix sums.
// Memory:   prefix sums of one chunk in shared memory. Batches of more than kChunk are counted twice: workers can be placed only
//           once the total is known.
// Sync:     all barriers are the block's; every thread passes all of them.
#pragma once

#include <flashinfer/attention/gpu/attention_launch_params.hpp>
#include <flashinfer/gpu/block_reduce.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>

namespace flashinfer::gpu {

template <AttentionPlanConfig kConfig>
struct AttentionPlanKernel {
  using Params = AttentionPlan;
  static constexpr int kThreads = kConfig.threads;
  static constexpr int kMinBlocks = 1;
  static constexpr int kChunk = 2048;
  static constexpr int kWarps = kThreads / kWarpSize;
  static_assert(kChunk % kThreads == 0 && kWarps <= kWarpSize);

  /// Of a request, or of those before it.
  struct Counts {
    int64_t units, slots;
    FLASHINFER_DEVICE Counts operator+(const Counts& other) const { return {units + other.units, slots + other.slots}; }
  };
  struct Smem {
    Counts before[kChunk + 1];  // before[i]: of the chunk's requests before its i-th
    Counts of_warp[kWarps];
  };

  static FLASHINFER_DEVICE void run(const Params& plan) {
    __shared__ Smem smem;
    ptx::griddep_wait();
    for (int i = int(threadIdx.x); i < plan.max_slots; i += kThreads) plan.counters[i] = 0;

    Counts total = {0, 0};
    for (int first = 0; first < plan.batch_size; first += kChunk) total = total + count(plan, first, smem);
    const int32_t num_pieces = total.units ? count_pieces(plan, total.units) : 0;
    if (threadIdx.x == 0) *plan.header = {total.units, num_pieces * plan.head_lanes, int32_t(total.slots)};

    Counts before = {0, 0};
    for (int first = 0; first < plan.batch_size; first += kChunk) {
      const Counts chunk = plan.batch_size <= kChunk ? total : count(plan, first, smem);
      place(plan, first, before, total.units, num_pieces, smem);
      before = before + chunk;
    }
    ptx::griddep_launch_dependents();
  }

 private:
  static FLASHINFER_DEVICE int64_t shuffle_up(int64_t x, int by) {
    const uint32_t low = __shfl_up_sync(0xffffffffu, uint32_t(x), by), high = __shfl_up_sync(0xffffffffu, uint32_t(uint64_t(x) >> 32), by);
    return int64_t(uint64_t(high) << 32 | low);
  }
  static FLASHINFER_DEVICE int64_t shuffle_xor(int64_t x, int mask) {
    const uint32_t low = __shfl_xor_sync(0xffffffffu, uint32_t(x), mask),
                   high = __shfl_xor_sync(0xffffffffu, uint32_t(uint64_t(x) >> 32), mask);
    return int64_t(uint64_t(high) << 32 | low);
  }

  /// Units and slots of a request, by a team of lanes that share its query tiles.
  static FLASHINFER_DEVICE Counts count_request(const AttentionPlan& plan, int32_t request, bool exists, int team, int member) {
    Counts counts = {0, 0};
    if (exists) {
      const RequestWork work(plan, request);
      const bool cuts = plan.batch_invariant && plan.cut_tiles > 0;
      const bool alike = !plan.causal && plan.window_left < 0;  // all tiles have the same units
      const int32_t num_tiles = alike ? min(work.num_q_tiles, int32_t(1)) : work.num_q_tiles;
      for (int32_t tile = member; tile < num_tiles; tile += team) {
        const int32_t n = work.num_units(plan, tile);
        counts.units += n + RequestWork::item_units(plan);
        counts.slots += cuts && n > 1 ? n : 0;
      }
      const int64_t times = int64_t(plan.num_head_groups()) * (alike ? work.num_q_tiles : 1);
      counts = {counts.units * times, counts.slots * times * plan.head_lanes};
    }
    for (int offset = team / 2; offset > 0; offset /= 2)
      counts = counts + Counts{shuffle_xor(counts.units, offset), shuffle_xor(counts.slots, offset)};
    return counts;
  }

  /// Fills smem.before for the requests from `first` on, and returns the chunk's sum.
  static FLASHINFER_DEVICE Counts count(const AttentionPlan& plan, int first, Smem& smem) {
    const int num_requests = min(plan.batch_size - first, kChunk);
    int team = 1;  // lanes per request: all threads busy at any batch size
    while (team < kWarpSize && team * 2 * num_requests <= kThreads) team *= 2;
    __syncthreads();  // the previous chunk has been placed
    for (int i = int(threadIdx.x) / team; i < round_up(num_requests, kThreads / team); i += kThreads / team) {
      const Counts counts = count_request(plan, first + i, i < num_requests, team, int(threadIdx.x) % team);
      if (i < num_requests && threadIdx.x % team == 0) smem.before[i + 1] = counts;
    }
    __syncthreads();
    // Inclusive sums within warps, then over the warps' sums.
    constexpr int kPerThread = kChunk / kThreads;
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    Counts own[kPerThread];
    Counts sum = {0, 0};
    for (int j = 0; j < kPerThread; ++j) {
      const int i = int(threadIdx.x) * kPerThread + j;
      if (i < num_requests) sum = sum + smem.before[i + 1];
      own[j] = sum;
    }
    Counts inclusive = sum;
    for (int by = 1; by < kWarpSize; by *= 2) {
      const Counts other = {shuffle_up(inclusive.units, by), shuffle_up(inclusive.slots, by)};
      if (lane >= by) inclusive = inclusive + other;
    }
    if (lane == kWarpSize - 1) smem.of_warp[warp] = inclusive;
    __syncthreads();
    Counts exclusive = {inclusive.units - sum.units, inclusive.slots - sum.slots}, chunk = {0, 0};
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) exclusive = exclusive + chunk;
      chunk = chunk + smem.of_warp[w];
    }
    for (int j = 0; j < kPerThread; ++j) smem.before[int(threadIdx.x) * kPerThread + j + 1] = exclusive + own[j];
    if (threadIdx.x == 0) smem.before[0] = {0, 0};
    __syncthreads();
    return chunk;
  }

  /// Writes the starts of the pieces that begin in this chunk. `before`: of the chunks before it.
  static FLASHINFER_DEVICE void place(const AttentionPlan& plan, int first, const Counts& before, int64_t num_units, int32_t num_pieces,
                                      const Smem& smem) {
    const int num_requests = min(plan.batch_size - first, kChunk);
    for (int32_t piece = int32_t(threadIdx.x); piece < num_pieces; piece += kThreads) {
      const int64_t unit = piece_begin(num_units, num_pieces, piece) - before.units;
      if (unit < 0 || unit >= smem.before[num_requests].units) continue;
      int low = 0, high = num_requests;  // before[low] <= unit < before[high]
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (smem.before[middle].units <= unit) {
          low = middle;
        } else {
          high = middle;
        }
      }
      plan.starts[piece] = locate(plan, first + low, unit - smem.before[low].units, before.slots + smem.before[low].slots);
    }
  }
};

}  // namespace flashinfer::gpu
