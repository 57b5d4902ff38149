// Small batches: a cluster of blocks shares a segment, each block a run of its keys, and adds up through each other's shared memory. That
// takes 1.5 us where slots, a counter and the last block to arrive take 3 to 6 (benchmarks/micro/decode.cu), and no plan is walked.
// Where the grid has more clusters than there are segments, several share one, each a run of its keys, and the last to arrive merges what
// they have. Clusters have equal shares whatever the lengths, so every block first looks at all of them: where they are too uneven it
// returns to the plan's pieces. All blocks decide alike.
#pragma once

#include <flashinfer/attention/gpu/attention_merge.cuh>
#include <flashinfer/attention/gpu/decode_tile.cuh>
#include <flashinfer/gpu/ptx/cluster_sm90.cuh>

namespace flashinfer::gpu {

/// Which keys a block has. What follows from the launch alone is found while the kernel before still runs.
template <DecodeConfig kConfig>
struct ClusterShare {
  static constexpr int kBlocks = kConfig.cluster_blocks;
  static constexpr int kMergeKeys = 192;  // that a block reads in the time that merging pieces takes longer: 3 us
  static constexpr int kMostParts = 16;   // merged in one round trip

  const AttentionPlan& plan;
  const int32_t group_size;
  int32_t segment, request, head;
  int32_t most_parts, part, rank;  // clusters of a segment, this one, this block
  float in_pieces_of_one;          // keys of a worker where pieces share one key of all heads

  FLASHINFER_DEVICE explicit ClusterShare(const AttentionPlan& plan) : plan(plan), group_size(plan.group_size()) {
    const int32_t num_heads = plan.num_heads(), segments = max(plan.batch_size * num_heads, int32_t(1));
    const int32_t cluster = int32_t(blockIdx.x) / kBlocks;
    rank = int32_t(blockIdx.x) % kBlocks;
    // Every block of a part has a slot, and a counter with the same blocks of the others.
    most_parts = clamp(min(int32_t(gridDim.x) / kBlocks, plan.max_slots / kBlocks) / segments, int32_t(1), int32_t(kMostParts));
    part = cluster / segments, segment = cluster - part * segments;
    request = segment / num_heads, head = segment - request * num_heads;
    in_pieces_of_one = float(num_heads) / float(max(plan.max_workers, int32_t(1)));
  }

  FLASHINFER_DEVICE KvRange keys(const RequestLengths& lengths) const {
    return RequestWork(lengths, group_size, kConfig.q_tile).keys(plan, 0);
  }
  /// Clusters that share so many keys.
  FLASHINFER_DEVICE int32_t num_parts(int32_t num_keys) const {
    return clamp(num_keys / (kBlocks * kClusterPartKeys), int32_t(1), most_parts);
  }

  /// Are shares of the clusters the shorter way, not the plan's pieces? By a whole warp; all blocks decide alike.
  FLASHINFER_DEVICE bool taken(int lane) const {
    int32_t longest = 0, total = 0, most_q_tiles = 1;
    for (int32_t r = lane; r < plan.batch_size; r += kWarpSize) {
      const RequestWork work(plan.lengths(r), group_size, kConfig.q_tile);
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
    // In multiplied form: a division takes a tenth of a microsecond here.
    const float blocks = float(kBlocks * num_parts(longest));
    return most_q_tiles == 1 && float(longest) <= (float(total) * in_pieces_of_one * 1.125f + kMergeKeys) * blocks;
  }

  /// This block's keys.
  FLASHINFER_DEVICE WorkItem item(const RequestLengths& lengths) const {
    const KvRange keys = this->keys(lengths);
    const int32_t first_tile = keys.begin / kConfig.kv_tile,
                  num_tiles = max(ceil_div(keys.end, int32_t(kConfig.kv_tile)) - first_tile, int32_t(0));
    const int32_t parts = num_parts(keys.end - keys.begin), blocks = parts * kBlocks, block = part * kBlocks + rank;
    const int32_t tiles = int32_t(uint32_t(num_tiles) / uint32_t(blocks)), rest = num_tiles - tiles * blocks;  // first blocks have one more
    const int32_t first = first_tile + tiles * block + min(block, rest), last = first + tiles + (block < rest);
    WorkItem item;
    item.request = request, item.head = head;
    item.kv_begin = first * kConfig.kv_tile;
    item.kv_end = min(last * kConfig.kv_tile, max(keys.end, item.kv_begin));
    if (parts > 1) {
      item.first_slot = (segment * kBlocks + rank) * most_parts, item.num_slots = parts;  // other segments may have more parts
      item.slot = item.first_slot + part;
    }
    return item;
  }
  /// Has this cluster a part of those keys, or came it for more?
  FLASHINFER_DEVICE bool has_part(const RequestLengths& lengths) const {
    const KvRange keys = this->keys(lengths);
    return part < num_parts(keys.end - keys.begin);
  }
};

/// In place of the tile, where a block finishes some columns of all rows.
template <DecodeConfig kConfig>
struct ClusterPart : DecodeTile<kConfig> {};
template <DecodeConfig kConfig>
struct ItemColumns<ClusterPart<kConfig>> {
  static FLASHINFER_DEVICE int32_t count(const DecodeWork&) { return kConfig.head_dim_vo / kConfig.cluster_blocks; }
  static FLASHINFER_DEVICE int32_t first(const DecodeWork& work) { return int32_t(ptx::cluster_rank()) * count(work); }
  static FLASHINFER_DEVICE int32_t kv_head(const DecodeWork& work) { return work.item.head; }
};
/// That, or the tile where the block has returned to the plan's pieces: partial results of both are merged by one piece of code.
template <DecodeConfig kConfig>
struct ClusterPartOrTile : DecodeTile<kConfig> {
  /// A block of a cluster has no other item: its stages are empty.
  static FLASHINFER_DEVICE MergeSpace merge_space(const DecodeWork& work) {
    using Tile = DecodeTile<kConfig>;
    static_assert(merge_bytes(kConfig.q_tile, Tile::kThreads, 1) <= Tile::kSmem.q);
    return work.in_cluster ? MergeSpace{dynamic_smem(), Tile::kSmem.q} : Tile::merge_space(work);
  }
};
template <DecodeConfig kConfig>
struct ItemColumns<ClusterPartOrTile<kConfig>> {
  using OfPart = ItemColumns<ClusterPart<kConfig>>;
  static FLASHINFER_DEVICE int32_t count(const DecodeWork& work) { return work.in_cluster ? OfPart::count(work) : kConfig.head_dim_vo; }
  static FLASHINFER_DEVICE int32_t first(const DecodeWork& work) { return work.in_cluster ? OfPart::first(work) : 0; }
  static FLASHINFER_DEVICE int32_t kv_head(const DecodeWork& work) { return work.item.head; }
};

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

  /// Four columns of this block's part of a row, to the block that finishes them; the row's state to all, one for each of the row's first
  /// fours. Nobody waits for the cluster's barrier: 1 x 1024 keys x 8 heads take 6.2 us, with it 6.6 (H100).
  static FLASHINFER_DEVICE void push(int at_row, int column, float m, float d, float4 x) {
    const int rank = int(ptx::cluster_rank());
    auto* to = reinterpret_cast<float4*>(row(rank, at_row) + column % kColumns);
    ptx::cluster_send(to, x, Tile::cluster_full(), uint32_t(column / kColumns));
    if (column / 4 < kBlocks) ptx::cluster_send(&state(rank, at_row), make_float2(m, d), Tile::cluster_full(), uint32_t(column / 4));
  }

  /// Once what every block has pushed is here: adds up in the order of the blocks and writes the result, or a part that the last cluster to
  /// arrive merges with the others': every block its own columns.
  template <class Variant>
  static FLASHINFER_DEVICE void finish(const AttentionParams& p, const DecodeWork& work) {
    ptx::cluster_receive(Tile::cluster_full(), 0);
#pragma unroll 1
    for (int task = ptx::opaque(int(threadIdx.x)); task < kConfig.q_tile * kVecs; task += Tile::kThreads) {
      const int at_row = task / kVecs, column = task % kVecs * 4;
      const OutRow at = out_row<ClusterPart<kConfig>>(p, work, at_row);
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
      const float factor = store_state<ClusterPart<kConfig>, Variant>(p, work, at_row, m, d, column == 0);
      if (work.item.slot >= 0) {
        store_partial<ClusterPart<kConfig>>(p, work, at, at_row, column, sum);
      } else {
        store_out<ClusterPart<kConfig>>(p, work, at, column, make_float4(sum.x * factor, sum.y * factor, sum.z * factor, sum.w * factor));
      }
    }
  }
};

}  // namespace flashinfer::gpu
