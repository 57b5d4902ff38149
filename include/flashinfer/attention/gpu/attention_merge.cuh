// The end of an item: warps that shared rows merge their accumulators, then the result is written, or left as a partial
// result that the last block to arrive at its segment merges with the others.
#pragma once

#include <flashinfer/attention/gpu/attention_tile.cuh>
#include <flashinfer/gpu/ptx/math.cuh>

namespace flashinfer::gpu {

/// A row of the item's tile and where it goes.
struct OutRow {
  int64_t token;    // of all requests' queries
  int32_t qo_head;
  bool valid;       // a row of the request, inside out
};
template <AttentionConfig kConfig>
FLASHINFER_DEVICE OutRow out_row(const AttentionParams& p, const AttentionWork& work, int32_t row) {
  const int32_t group_size = p.plan.group_size(), packed = work.item.q_tile * kConfig.q_tile + row;
  const int32_t token = packed / group_size, at = work.qo_begin + token;
  return {at, work.item.head / p.plan.num_vo_tiles * group_size + packed - token * group_size,
          token < work.qo_len && uint32_t(at) < uint32_t(p.total_qo_len)};
}

/// What is left to do to a row whose softmax state is m (log2 domain) and d: out = o * factor, and its log-sum-exp.
struct FinishedRow {
  float factor, lse;
};
template <class Variant>
FLASHINFER_DEVICE FinishedRow finish_row(const AttentionParams& p, float m, float d, int32_t qo_head) {
  const float sink = Variant::sink(p.variant, qo_head) * kLog2e;
  float factor = p.out_scale;
  if (sink > -kInfinity) {
    const float both = fmaxf(m, sink), keep = m == -kInfinity ? 0.0f : ptx::ex2(m - both);
    d = d * keep + ptx::ex2(sink - both);
    m = both;
    factor *= keep;
  }
  // No key to attend to: zeros, and -inf as the log of nothing. NaN stays NaN.
  return {d == 0.0f ? 0.0f : factor / d, d == 0.0f ? -kInfinity : (m + ptx::lg2(d)) * p.lse_factor};
}

/// Writes a row's columns [column, column + kColumns) of the item.
template <AttentionConfig kConfig, int kColumns>
FLASHINFER_DEVICE void store_out(const AttentionParams& p, const AttentionWork& work, const OutRow& at, int32_t column, const float (&x)[kColumns]) {
  using Out = number_t<kConfig.out>;
  const int32_t vo_column = work.item.head % p.plan.num_vo_tiles * kConfig.vo_tile + column;
  if (column >= kConfig.vo_tile || vo_column >= kConfig.head_dim_vo) return;
  Out* row = static_cast<Out*>(p.out) + at.token * p.out_stride_token + at.qo_head * p.out_stride_head;
  Vec<Out, kColumns>::from_float(x).store(row + vo_column);
}
FLASHINFER_DEVICE void store_lse(const AttentionParams& p, const AttentionWork& work, const OutRow& at, float lse) {
  if (p.lse && work.item.head % p.plan.num_vo_tiles == 0) p.lse[at.token * p.lse_stride_token + at.qo_head * p.lse_stride_head] = lse;
}

/// Merges what the warps of a block have of the same rows, through shared memory. Warp w receives the sums of fragments w, w + kWarps, ...
template <AttentionConfig kConfig>
struct WarpMerge {
  using Tile = AttentionTile<kConfig>;
  static constexpr AttentionSmem kSmem = Tile::kSmem;
  static constexpr int kWarps = kConfig.warps_kv;
  static constexpr int kFragments = ceil_div(Tile::kOutFragments, kWarps);

  float o[1][kFragments][4];

  FLASHINFER_DEVICE WarpMerge(const float (&from)[1][Tile::kOutFragments][4], float (&m)[1][2], float (&d)[1][2]) {
    float4* sums = reinterpret_cast<float4*>(dynamic_smem() + kSmem.k);  // [warp, fragment, lane]
    float* maxima = reinterpret_cast<float*>(dynamic_smem() + kSmem.merge_max);
    float* denominators = reinterpret_cast<float*>(dynamic_smem() + kSmem.merge_sum);
    const int lane = Tile::lane(), warp = Tile::warp();
    __syncthreads();  // all warps are done with the keys and values that lie here
#pragma unroll
    for (int n = 0; n < Tile::kOutFragments; ++n)
      sums[(warp * Tile::kOutFragments + n) * kWarpSize + lane] = make_float4(from[0][n][0], from[0][n][1], from[0][n][2], from[0][n][3]);
    if (lane % 4 == 0) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        maxima[warp * 16 + Tile::row(0, h)] = m[0][h];
        denominators[warp * 16 + Tile::row(0, h)] = d[0][h];
      }
    }
    __syncthreads();
    float factor[kWarps][2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      m[0][h] = -kInfinity, d[0][h] = 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) m[0][h] = fmaxf(m[0][h], maxima[w * 16 + Tile::row(0, h)]);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float of_warp = maxima[w * 16 + Tile::row(0, h)];
        factor[w][h] = of_warp == -kInfinity ? 0.0f : ptx::ex2(of_warp - m[0][h]);
        d[0][h] += denominators[w * 16 + Tile::row(0, h)] * factor[w][h];
      }
    }
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
      const int n = warp + i * kWarps;
#pragma unroll
      for (float& x : o[0][i]) x = 0.0f;
      if (Tile::kOutFragments % kWarps != 0 && n >= Tile::kOutFragments) continue;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float4 sum = sums[(w * Tile::kOutFragments + n) * kWarpSize + lane];
        o[0][i][0] += sum.x * factor[w][0], o[0][i][1] += sum.y * factor[w][0];
        o[0][i][2] += sum.z * factor[w][1], o[0][i][3] += sum.w * factor[w][1];
      }
    }
  }
};

/// Writes fragments first, first + kStep, ... of the thread's rows: the final result, or its slot's partial one.
template <AttentionConfig kConfig, class Variant, int kStep, int kFragments>
FLASHINFER_DEVICE void store_fragments(const AttentionParams& p, const AttentionWork& work, const float (&m)[AttentionTile<kConfig>::kRowFragments][2],
                                       const float (&d)[AttentionTile<kConfig>::kRowFragments][2],
                                       const float (&o)[AttentionTile<kConfig>::kRowFragments][kFragments][4], int first) {
  using Tile = AttentionTile<kConfig>;
  const int lane = Tile::lane();
#pragma unroll
  for (int f = 0; f < Tile::kRowFragments; ++f)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = Tile::row(f, h);
      const OutRow at = out_row<kConfig>(p, work, row);
      if (!at.valid) continue;
      if (work.item.slot >= 0) {
        const int64_t slot_row = int64_t(work.item.slot) * kConfig.q_tile + row;
        if (first == 0 && lane % 4 == 0) p.plan.partial_max[slot_row] = m[f][h], p.plan.partial_sum[slot_row] = d[f][h];
#pragma unroll
        for (int i = 0; i < kFragments; ++i) {
          const int column = (first + i * kStep) * 8 + lane % 4 * 2;
          if (column < kConfig.vo_tile)
            *reinterpret_cast<float2*>(p.plan.partial_out + slot_row * kConfig.vo_tile + column) = make_float2(o[f][i][2 * h], o[f][i][2 * h + 1]);
        }
      } else {
        const FinishedRow finished = finish_row<Variant>(p, m[f][h], d[f][h], at.qo_head);
        if (first == 0 && lane % 4 == 0) store_lse(p, work, at, finished.lse);
#pragma unroll
        for (int i = 0; i < kFragments; ++i)
          store_out<kConfig>(p, work, at, (first + i * kStep) * 8 + lane % 4 * 2,
                             {o[f][i][2 * h] * finished.factor, o[f][i][2 * h + 1] * finished.factor});
      }
    }
}

/// After every thread has stored its part of a partial result: is this the last block of the segment to do so?
template <AttentionConfig kConfig>
FLASHINFER_DEVICE bool arrives_last(const AttentionParams& p) {
  AttentionWork& work = AttentionTile<kConfig>::work();
  __threadfence();  // the partial result is visible to all before the arrival is
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t* counter = p.plan.counters + work.item.first_slot;
    work.is_last = atomicAdd(counter, 1) == work.item.num_slots - 1;
    if (work.is_last) *counter = 0;  // nobody else comes: ready for the next launch
  }
  __syncthreads();
  const bool last = work.is_last;
  if (last) __threadfence();  // the others' partial results are visible to this block
  return last;
}

/// Merges a segment's partial results in slot order, whatever the order of arrival. All threads take part: a task is four
/// columns of a row; where there are fewer tasks than threads, several threads share one, each with a run of the slots.
template <AttentionConfig kConfig, class Variant>
FLASHINFER_DEVICE void merge_slots(const AttentionParams& p, const AttentionWork& work) {
  using Tile = AttentionTile<kConfig>;
  constexpr int kTasksPerRow = kConfig.vo_tile / 4;
  constexpr int kBatch = 8;  // loads under way per thread
  const AttentionPlan& plan = p.plan;
  const WorkItem& item = work.item;
  float* row_max = reinterpret_cast<float*>(dynamic_smem() + Tile::kSmem.k);  // [q_tile]
  float* row_factor = row_max + kConfig.q_tile;
  float4* sums = reinterpret_cast<float4*>(row_factor + kConfig.q_tile);      // [threads]
  const int num_rows = min(kConfig.q_tile, work.qo_len * plan.group_size() - item.q_tile * kConfig.q_tile);

  for (int row = Tile::warp(); row < num_rows; row += Tile::kThreads / kWarpSize) {
    float m = -kInfinity, d = 0.0f;
    for (int i = Tile::lane(); i < item.num_slots; i += kWarpSize) m = fmaxf(m, __ldcg(plan.partial_max + int64_t(item.slot_at(i)) * kConfig.q_tile + row));
    m = warp_max(m);
    for (int i = Tile::lane(); i < item.num_slots; i += kWarpSize) {
      const int64_t at = int64_t(item.slot_at(i)) * kConfig.q_tile + row;
      const float of_slot = __ldcg(plan.partial_max + at);
      if (of_slot > -kInfinity) d += __ldcg(plan.partial_sum + at) * ptx::ex2(of_slot - m);
    }
    d = warp_sum(d);
    if (Tile::lane() == 0) {
      const OutRow at = out_row<kConfig>(p, work, row);
      const FinishedRow finished = finish_row<Variant>(p, m, d, at.qo_head);
      row_max[row] = m;
      row_factor[row] = finished.factor;
      if (at.valid) store_lse(p, work, at, finished.lse);
    }
  }
  __syncthreads();

  const int num_tasks = num_rows * kTasksPerRow;
  const int sharers = max(1, Tile::kThreads / num_tasks);
  for (int i = int(threadIdx.x); i < round_up(num_tasks * sharers, Tile::kThreads); i += Tile::kThreads) {
    const int task = i % num_tasks, sharer = i / num_tasks;
    const int row = task / kTasksPerRow, column = task % kTasksPerRow * 4;
    const bool busy = sharer < sharers;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (busy) {
      const float m = row_max[row];
      const int end = (sharer + 1) * item.num_slots / sharers;
      for (int slot = sharer * item.num_slots / sharers; slot < end; slot += kBatch) {
        float4 parts[kBatch];
        float maxima[kBatch];
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          const int64_t at = int64_t(item.slot_at(min(slot + j, end - 1))) * kConfig.q_tile + row;
          parts[j] = __ldcg(reinterpret_cast<const float4*>(plan.partial_out + at * kConfig.vo_tile + column));
          maxima[j] = __ldcg(plan.partial_max + at);
        }
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          if (slot + j >= end || maxima[j] == -kInfinity) continue;
          const float factor = ptx::ex2(maxima[j] - m);
          sum.x += parts[j].x * factor, sum.y += parts[j].y * factor, sum.z += parts[j].z * factor, sum.w += parts[j].w * factor;
        }
      }
    }
    if (sharers > 1) {  // then there is one round, and sharer 0 adds what the others have
      sums[threadIdx.x] = sum;
      __syncthreads();
      if (sharer == 0) {
        for (int j = 1; j < sharers; ++j) {
          const float4 other = sums[task + j * num_tasks];
          sum.x += other.x, sum.y += other.y, sum.z += other.z, sum.w += other.w;
        }
      }
    }
    const OutRow at = out_row<kConfig>(p, work, row);
    if (busy && sharer == 0 && at.valid) {
      const float factor = row_factor[row];
      store_out<kConfig>(p, work, at, column, {sum.x * factor, sum.y * factor, sum.z * factor, sum.w * factor});
    }
  }
}

}  // namespace flashinfer::gpu
