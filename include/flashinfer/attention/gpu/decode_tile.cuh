// What every part of the decode kernel derives from its config: types, counts, the block's shared memory, the rings that its
// warps meet at.
#pragma once

#include <flashinfer/attention/gpu/attention_tile.cuh>
#include <flashinfer/attention/gpu/decode_launch_params.hpp>
#include <flashinfer/gpu/ptx/mbarrier_sm90.cuh>
#include <flashinfer/gpu/ptx/named_barrier.cuh>

namespace flashinfer::gpu {

/// An item as the loading warps hand it over.
struct DecodeWork : AttentionWork {
  Divisor group;
  int32_t in_cluster;  // is the item a share of the cluster's segment?

  FLASHINFER_DEVICE int32_t group_size(const AttentionParams&) const { return int32_t(group.divisor); }
  FLASHINFER_DEVICE int32_t token_of(const AttentionParams&, int32_t packed) const { return group.quotient(packed); }
};
static_assert(sizeof(DecodeWork) <= DecodeSmem::kWorkBytes);

/// A slot of a ring, and the parity of the barriers' phase that fills it.
template <int kSlots>
struct RingPosition {
  int32_t slot = 0;
  uint32_t parity = 0;

  FLASHINFER_DEVICE RingPosition after(int32_t steps) const {
    const int32_t at = slot + steps, laps = at / kSlots;
    return {at - laps * kSlots, (parity ^ uint32_t(laps)) & 1u};
  }
  /// Up to a lap back.
  FLASHINFER_DEVICE RingPosition before(int32_t steps) const {
    const int32_t at = slot - steps, laps = at < 0;
    return {at + laps * kSlots, parity ^ uint32_t(laps)};
  }
};

template <DecodeConfig kConfig>
struct DecodeTile {
  using Q = number_t<kConfig.q>;
  using Kv = number_t<kConfig.kv>;
  using Out = number_t<kConfig.out>;
  /// What enters mma. An FP8 cache becomes f16, exactly.
  static constexpr bool kConverts = is_float8(kConfig.kv);
  using Operand = conditional_t<kConverts, f16, Q>;

  static constexpr DecodeSmem kSmem{kConfig};
  static constexpr int kStages = kConfig.num_stages, kItems = kConfig.num_items;
  static constexpr int kRows = rows_per_warp(kConfig);
  static constexpr int kConsumerWarps = kConfig.warps_q * kConfig.warps_kv;

  // What attention_merge.cuh asks for: the consumers are the block's first threads.
  static constexpr int kThreads = consumer_threads(kConfig);
  static constexpr int kQTile = kConfig.q_tile, kVoTile = kConfig.head_dim_vo, kHeadDimVo = kConfig.head_dim_vo, kVoTiles = 1;
  static constexpr bool kHeadScales = kConfig.head_scales;
  static FLASHINFER_DEVICE void sync() { ptx::sync_threads(1, kThreads); }
  /// Where the groups' accumulators met: stages are being filled for the next item.
  static FLASHINFER_DEVICE MergeSpace merge_space(const DecodeWork&) {
    return {dynamic_smem() + kSmem.scratch, kSmem.maxima - kSmem.scratch};
  }
  static FLASHINFER_DEVICE int32_t& is_last() { return *reinterpret_cast<int32_t*>(dynamic_smem() + kSmem.is_last); }

  static FLASHINFER_DEVICE int lane() { return int(threadIdx.x % kWarpSize); }
  static FLASHINFER_DEVICE int warp() { return int(threadIdx.x / kWarpSize); }
  static FLASHINFER_DEVICE int warp_q() { return kConfig.warps_q == 1 ? 0 : warp() % kConfig.warps_q; }
  static FLASHINFER_DEVICE int warp_kv() { return warp() / kConfig.warps_q; }

  static FLASHINFER_DEVICE DecodeWork& work(int32_t slot) {
    return *reinterpret_cast<DecodeWork*>(dynamic_smem() + kSmem.works + slot * DecodeSmem::kWorkBytes);
  }
  /// Of a stage's tokens: kv_tile for the keys, then as many for the values.
  static FLASHINFER_DEVICE float* scales(int32_t slot) {
    return reinterpret_cast<float*>(dynamic_smem() + kSmem.scales) + slot * 2 * kConfig.kv_tile;
  }
  static FLASHINFER_DEVICE unsigned char* q_rows(int32_t slot) { return dynamic_smem() + kSmem.q + slot * kSmem.q_bytes; }

  /// A stage's copies have landed; its group of warps has read it. An item and its q are there; all consumers are done with it.
  static FLASHINFER_DEVICE ptx::Mbarrier* stage_full(int32_t slot) { return barriers() + slot; }
  static FLASHINFER_DEVICE ptx::Mbarrier* stage_empty(int32_t slot) { return barriers() + kStages + slot; }
  static FLASHINFER_DEVICE ptx::Mbarrier* item_full(int32_t slot) { return barriers() + 2 * kStages + slot; }
  static FLASHINFER_DEVICE ptx::Mbarrier* item_empty(int32_t slot) { return barriers() + 2 * kStages + kItems + slot; }

  /// What the blocks of the cluster have of this block's columns is there.
  static FLASHINFER_DEVICE ptx::Mbarrier* cluster_full() { return reinterpret_cast<ptx::Mbarrier*>(dynamic_smem() + kSmem.is_last + 8); }

  /// By one thread, before any other looks at a barrier.
  static FLASHINFER_DEVICE void make_barriers() {
    for (int i = 0; i < kStages; ++i) {
      ptx::mbarrier_init(stage_full(i), kWarpSize);
      ptx::mbarrier_init(stage_empty(i), kConfig.warps_q);
    }
    for (int i = 0; i < kItems; ++i) {
      ptx::mbarrier_init(item_full(i), kWarpSize + 1);
      ptx::mbarrier_init(item_empty(i), kConsumerWarps);
    }
    if constexpr (kConfig.cluster_blocks > 1) {
      constexpr uint32_t kBytes =
          kConfig.q_tile * (kConfig.head_dim_vo * 4 + kConfig.cluster_blocks * 8);  // that the cluster's blocks send
      ptx::mbarrier_init(cluster_full(), 1);
      ptx::mbarrier_init_fence();
      ptx::mbarrier_arrive_expect(cluster_full(), kBytes);
    }
  }

 private:
  static FLASHINFER_DEVICE ptx::Mbarrier* barriers() { return reinterpret_cast<ptx::Mbarrier*>(dynamic_smem() + kSmem.barriers); }
};

}  // namespace flashinfer::gpu
