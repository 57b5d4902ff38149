// Plans attention where the lengths are: what plan_work() computes, bit for bit, each plan by one block. Called by gpu/attention.hpp; its
// twin is plan_work() of attention/attention_plan_work.hpp.
//
// Bound by: latency. One round trip for all lengths, a scan over the requests, a search and a second look at the lengths per piece.
// Threads:  requests are taken kChunk at a time, up to kPerThread a thread; where query tiles differ, a team of threads counts the units
//           of one request's. Then a thread per piece finds its request by bisection of the chunk's prefix sums.
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
  using Params = AttentionPlans;
  static constexpr int kThreads = kConfig.threads;
  static constexpr int kMinBlocks = 1;
  static constexpr int kChunk = 1024;
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kPerThread = kChunk / kThreads;
  static_assert(kChunk % kThreads == 0 && kWarps <= kWarpSize);

  /// Of a request, or of those before it.
  struct Counts {
    int64_t units, slots;
    FLASHINFER_DEVICE Counts operator+(const Counts& other) const { return {units + other.units, slots + other.slots}; }
  };
  struct Smem {
    int64_t units[kChunk + 1], slots[kChunk + 1];  // of the chunk's requests before its i-th; slots where partial results have some
    Counts of_warp[kWarps];
  };

  static FLASHINFER_DEVICE void run(const Params& params) {
    const AttentionPlan& plan = params.plans[blockIdx.x];
    __shared__ Smem smem;
    ptx::griddep_wait();
    ptx::griddep_launch_dependents();  // who reads the plan waits for the end of this grid
    for (int i = int(threadIdx.x); i < plan.max_slots; i += kThreads) plan.counters[i] = 0;
    if (plan.is_empty()) {
      if (threadIdx.x == 0) *plan.header = {0, 0, 0};
      return;
    }

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

  static FLASHINFER_DEVICE bool has_slots(const AttentionPlan& plan) { return plan.batch_invariant && plan.cut_tiles > 0; }

  static FLASHINFER_DEVICE Counts count_alike(const AttentionPlan& plan, const AlikeRequests& requests, const RequestLengths& lengths) {
    const int32_t n = requests.num_units(lengths.kv_len);
    const int64_t segments = int64_t(requests.num_q_tiles(lengths.qo_len)) * plan.num_head_groups();
    return {segments * (n + RequestWork::item_units(plan)), has_slots(plan) && n > 1 ? segments * plan.head_lanes * n : 0};
  }
  /// By a team of lanes that share the query tiles; every one gets the sum.
  static FLASHINFER_DEVICE Counts count_tiles(const AttentionPlan& plan, const RequestLengths& lengths, int team) {
    const RequestWork work(plan, lengths);
    Counts counts = {0, 0};
    for (int32_t tile = int(threadIdx.x) % team; tile < work.num_q_tiles; tile += team) {
      const int32_t n = work.num_units(plan, tile);
      counts = counts + Counts{n + RequestWork::item_units(plan), has_slots(plan) && n > 1 ? n : 0};
    }
    counts = {counts.units * plan.num_head_groups(), counts.slots * plan.num_heads()};
    for (int offset = team / 2; offset > 0; offset /= 2)
      counts = counts + Counts{shuffle_xor(counts.units, offset), shuffle_xor(counts.slots, offset)};
    return counts;
  }

  /// Fills smem.units and smem.slots for the requests from `first` on, and returns the chunk's sum. A call, for it stands in two loops.
  __noinline__ static __device__ Counts count(const AttentionPlan& plan, int first, Smem& smem) {
    const AlikeRequests requests(plan);
    const int num_requests = min(plan.batch_size - first, kChunk);
    const bool alike = plan.tiles_are_alike();
    int team = 1;  // lanes per request: all threads busy at any batch size
    while (!alike && team < kWarpSize && team * 2 * num_requests <= kThreads) team *= 2;
    const int per_thread = ceil_div(num_requests, kThreads / team), begin = int(threadIdx.x) / team * per_thread;
    const auto exists = [&](int j) { return j < per_thread && begin + j < num_requests; };
    RequestLengths lengths[kPerThread];  // every load is under way before the first is waited for
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      lengths[j] = {0, 0, 0, 0};
      if (exists(j)) lengths[j] = plan.lengths(first + begin + j);
    }
    Counts own[kPerThread], sum = {0, 0};
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      own[j] = {0, 0};
      if (j >= per_thread) continue;
      if (alike) {
        if (exists(j)) own[j] = count_alike(plan, requests, lengths[j]);
      } else {
        own[j] = count_tiles(plan, lengths[j], team);
      }
      if (threadIdx.x % team == 0) sum = sum + own[j];
    }
    __syncthreads();  // the previous chunk has been placed
    // Inclusive sums within warps, then over the sums of warps that have requests.
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    const int num_warps = ceil_div(ceil_div(num_requests, per_thread) * team, kWarpSize);
    Counts inclusive = sum;
    for (int by = 1; by < kWarpSize; by *= 2) {
      const Counts other = {shuffle_up(inclusive.units, by), has_slots(plan) ? shuffle_up(inclusive.slots, by) : 0};
      if (lane >= by) inclusive = inclusive + other;
    }
    if (lane == kWarpSize - 1) smem.of_warp[warp] = inclusive;
    __syncthreads();
    Counts before = {inclusive.units - sum.units, inclusive.slots - sum.slots}, chunk = {0, 0};
    for (int w = 0; w < num_warps; ++w) {
      if (w == warp) before = before + chunk;
      chunk = chunk + smem.of_warp[w];
    }
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      if (threadIdx.x % team != 0 || !exists(j)) continue;
      smem.units[begin + j] = before.units;
      if (has_slots(plan)) smem.slots[begin + j] = before.slots;
      before = before + own[j];
    }
    if (threadIdx.x == 0) smem.units[num_requests] = chunk.units;
    __syncthreads();
    return chunk;
  }

  /// Writes the starts of the pieces that begin in this chunk. `before`: of the chunks before it.
  static FLASHINFER_DEVICE void place(const AttentionPlan& plan, int first, const Counts& before, int64_t num_units, int32_t num_pieces,
                                      const Smem& smem) {
    const int num_requests = min(plan.batch_size - first, kChunk);
    for (int32_t piece = int32_t(threadIdx.x); piece < num_pieces; piece += kThreads) {
      const int64_t unit = piece_begin(num_units, num_pieces, piece) - before.units;
      if (unit < 0 || unit >= smem.units[num_requests]) continue;
      int low = 0, high = num_requests;  // units[low] <= unit < units[high]
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (smem.units[middle] <= unit) {
          low = middle;
        } else {
          high = middle;
        }
      }
      plan.starts[piece] = locate(plan, first + low, unit - smem.units[low], has_slots(plan) ? before.slots + smem.slots[low] : 0);
    }
  }
};

}  // namespace flashinfer::gpu
