// Small batches: a cluster of blocks shares a segment, each block a run of its keys, and adds up through each other's shared memory. That
// takes 1.5 us where slots, a counter and the last block to arrive take 3 to 6 (benchmarks/micro/decode.cu), and no plan is walked.
// Clusters have equal shares whatever the lengths, so every block first looks at all of them: where they are too uneven it returns to
// the plan's pieces. All blocks decide alike.
#pragma once

#include <flashinfer/attention/gpu/attention_merge.cuh>
#include <flashinfer/attention/gpu/decode_tile.cuh>
#include <flashinfer/gpu/ptx/cluster_sm90.cuh>

namespace flashinfer::gpu {

/// What a block has of its cluster's segment.
struct ClusterShare {
  bool taken = false;  // else the plan's pieces are the shorter way
  RequestLengths lengths{};
  WorkItem item;
};

/// By a whole warp.
template <DecodeConfig kConfig>
FLASHINFER_DEVICE ClusterShare cluster_share(const AttentionPlan& plan, int lane) {
  constexpr int kBlocks = kConfig.cluster_blocks;
  constexpr int kMergeKeys = 192;  // that a block reads in the time that merging pieces takes longer: 3 us
  const int32_t segment = int32_t(blockIdx.x) / kBlocks, rank = int32_t(blockIdx.x) % kBlocks, num_heads = plan.num_heads();
  const int32_t request = segment / num_heads;
  ClusterShare share;
  if (request < plan.batch_size) share.lengths = plan.lengths(request);

  int32_t longest = 0, total = 0, most_q_tiles = 1;
  for (int32_t r = lane; r < plan.batch_size; r += kWarpSize) {
    const RequestWork work(plan, plan.lengths(r));
    const KvRange keys = work.keys(plan, 0);
    const int32_t num_keys = max(keys.end - keys.begin, int32_t(0));
    longest = max(longest, num_keys), total += min(num_keys, int32_t(1) << 24), most_q_tiles = max(most_q_tiles, work.num_q_tiles);
  }
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    longest = max(longest, __shfl_xor_sync(0xffffffffu, longest, step));
    total += __shfl_xor_sync(0xffffffffu, total, step);
    most_q_tiles = max(most_q_tiles, __shfl_xor_sync(0xffffffffu, most_q_tiles, step));
  }
  const float in_cluster = float(longest) / kBlocks, in_pieces = float(total) * num_heads / max(plan.max_workers, int32_t(1));
  share.taken = most_q_tiles == 1 && in_cluster <= in_pieces * 1.125f + kMergeKeys;

  const RequestWork work(plan, share.lengths);
  const KvRange keys = work.keys(plan, 0);
  const int32_t first_tile = keys.begin / kConfig.kv_tile,
                num_tiles = max(ceil_div(keys.end, int32_t(kConfig.kv_tile)) - first_tile, int32_t(0));
  const int32_t first = num_tiles * rank / kBlocks, last = num_tiles * (rank + 1) / kBlocks;
  share.item.request = request, share.item.head = segment - request * num_heads;
  share.item.kv_begin = (first_tile + first) * kConfig.kv_tile;
  share.item.kv_end = min((first_tile + last) * kConfig.kv_tile, max(keys.end, share.item.kv_begin));
  if (request >= plan.batch_size) share.item.request = 0, share.lengths.qo_len = 0, share.item.kv_end = share.item.kv_begin;
  return share;
}

/// Every block finishes some columns of all rows. Here it collects what the blocks of its cluster have of them.
template <DecodeConfig kConfig>
struct ClusterColumns {
  using Tile = DecodeTile<kConfig>;
  static constexpr int kBlocks = kConfig.cluster_blocks, kColumns = kConfig.head_dim_vo / kBlocks, kVecs = kColumns / 4;

  static FLASHINFER_DEVICE float* row(int rank, int row) {
    return reinterpret_cast<float*>(dynamic_smem() + Tile::kSmem.cluster_columns) + (rank * kConfig.q_tile + row) * kColumns;
  }
  static FLASHINFER_DEVICE float2& state(int rank, int row) {  // m, d
    return reinterpret_cast<float2*>(dynamic_smem() + Tile::kSmem.cluster_states)[rank * kConfig.q_tile + row];
  }

  /// Four columns of this block's part of a row, to the block that finishes them; the row's state, with its first columns, to all.
  static FLASHINFER_DEVICE void push(int at_row, int column, float m, float d, float4 x) {
    const int rank = int(ptx::cluster_rank());
    *reinterpret_cast<float4*>(ptx::cluster_map(row(rank, at_row) + column % kColumns, uint32_t(column / kColumns))) = x;
    if (column != 0) return;
    for (int other = 0; other < kBlocks; ++other) *ptx::cluster_map(&state(rank, at_row), uint32_t(other)) = make_float2(m, d);
  }

  /// Once every block has pushed: adds up in the order of the blocks and writes the result.
  template <class Variant>
  static FLASHINFER_DEVICE void finish(const AttentionParams& p, const DecodeWork& work) {
    const int rank = int(ptx::cluster_rank());
#pragma unroll 1
    for (int task = ptx::opaque(int(threadIdx.x)); task < kConfig.q_tile * kVecs; task += Tile::kThreads) {
      const int at_row = task / kVecs, column = task % kVecs * 4;
      const OutRow at = out_row<Tile>(p, work, at_row);
      if (!at.valid) continue;
      float m = -kInfinity, d = 0.0f;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) m = fmaxf(m, state(block, at_row).x);
      float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const float2 of_block = state(block, at_row);
        const float factor = of_block.x == -kInfinity ? 0.0f : ptx::ex2(of_block.x - m);
        const float4 x = *reinterpret_cast<const float4*>(row(block, at_row) + column);
        d += of_block.y * factor;
        sum.x += x.x * factor, sum.y += x.y * factor, sum.z += x.z * factor, sum.w += x.w * factor;
      }
      const float factor = store_state<Tile, Variant>(p, work, at_row, m, d, rank == 0 && column == 0);
      store_out<Tile>(p, work, at, rank * kColumns + column, make_float4(sum.x * factor, sum.y * factor, sum.z * factor, sum.w * factor));
    }
  }
};

}  // namespace flashinfer::gpu
