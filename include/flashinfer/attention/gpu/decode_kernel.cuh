// The decode kernel: few query rows a key head (up to 64) against a long cache, at the speed of memory, from Ampere on.
// Called by gpu/attention.hpp; its twin is cpu/attention.hpp. Everything that it does not take runs in gpu/attention_kernel.cuh.
//
// Bound by: memory. mma.sync is enough: at 8 rows it takes a tenth of the time that the keys take to arrive, at 64 rows half; wgmma
//           would make four warps meet at every stage for nothing.
// Threads:  a block is a worker of the plan. One warp or more load and walk the plan; the others compute, in groups that take turns at
//           stages. A group's warps share a stage's keys and have rows of their own. Before there are keys, they prefetch the first.
// Memory:   a ring of stages, each the keys and values of kv_tile tokens. The loading warps run ahead over the ends of items, so that
//           memory is never idle while a block finishes one; as much as shared memory holds is under way.
// Sync:     barriers of stages and of items (full, empty); a stage concerns one group alone. The groups meet once an item, to merge.
//           Blocks meet at a segment's counter only and none waits; those of a cluster, where there are any, when all have started, and
//           each waits for the bytes that the others send it.
#pragma once

#include <flashinfer/attention/gpu/decode_load.cuh>
#include <flashinfer/attention/gpu/decode_merge.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>

namespace flashinfer::gpu {

template <DecodeConfig config, class Variant = BuiltinVariant<config.variant_flags()>>
struct DecodeKernel {
  static_assert(why_invalid(config) == nullptr, "there is no kernel of this config: see why_invalid() in decode_launch_params.hpp");
  static_assert(AttentionVariant<Variant>, "the functor lacks a member of BuiltinVariant (attention/variant.hpp)");

  using Params = AttentionParams;
  static constexpr DecodeConfig kConfig = config;
  using Tile = DecodeTile<kConfig>;
  static constexpr int kThreads = num_threads(kConfig);
  static constexpr int kMinBlocks = kConfig.blocks_per_sm;

  static FLASHINFER_DEVICE void run(const Params& p) {
    if (threadIdx.x == 0) Tile::make_barriers();
    __syncthreads();
    if constexpr (kClusters) ptx::cluster_arrive_relaxed();
    if (Tile::warp() < Tile::kConsumerWarps) {
      DecodePrefetch<kConfig>::run(p);
      ptx::griddep_wait();
      compute(p);
    } else {
      DecodeLoader<kConfig> loader(p, Tile::warp() - Tile::kConsumerWarps);  // what parameters tell
      ptx::griddep_wait();                                                   // the plan itself may come from the previous kernel
      // Not after the keys: the next kernel's blocks prefetch theirs while these are read. 16 x 1024 keys x 8 heads take 27.3 us, else 27.5
      // (H100).
      ptx::griddep_launch_dependents();
      loader.run();
      if constexpr (kClusters) ptx::cluster_wait();
    }
  }

 private:
  static constexpr bool kClusters = kConfig.cluster_blocks > 1;

  static FLASHINFER_DEVICE void compute(const Params& p) {
    if constexpr (kClusters) ptx::cluster_wait();  // the others' shared memory may be written
    DecodeState<kConfig, Variant> state;
    RingPosition<Tile::kStages> stage;
    RingPosition<Tile::kItems> slot;
    for (;; slot = slot.after(1)) {
      ptx::mbarrier_wait(Tile::item_full(slot.slot), slot.parity);
      const DecodeWork& work = Tile::work(slot.slot);
      if (!work.has_item) break;
      state.begin(p, work, slot.slot);
      const int32_t num_tiles = ceil_div(max(work.item.kv_end - work.item.kv_begin, int32_t(0)), int32_t(kConfig.kv_tile));
      RingPosition<Tile::kStages> own = stage.after(Tile::warp_kv());
      int32_t tile = Tile::warp_kv();
#pragma unroll 1
      for (; tile < num_tiles; tile += kConfig.warps_kv) {
        ptx::mbarrier_wait(Tile::stage_full(own.slot), own.parity);
        state.step(p, work, own.slot, work.item.kv_begin + tile * kConfig.kv_tile);
        __syncwarp();  // all lanes have read the stage
        if (Tile::lane() == 0) ptx::mbarrier_arrive(Tile::stage_empty(own.slot));
        own = own.after(kConfig.warps_kv);
      }
      stage = own.before(tile - num_tiles);  // from where the group came to: its start would be two more registers in the loop
      state.finish();
      merge_groups(p, work, state);
      if constexpr (kClusters) {
        if (work.in_cluster) ClusterColumns<kConfig>::template finish<Variant>(p, work);
        if (work.item.slot >= 0 && arrives_last<Tile>(p, work.item)) merge_slots<ClusterPartOrTile<kConfig>, Variant>(p, work);
        if (work.in_cluster) break;  // there is no other item
      } else if (work.item.slot >= 0 && arrives_last<Tile>(p, work.item)) {
        merge_slots<Tile, Variant>(p, work);
      }
      __syncwarp();
      if (Tile::lane() == 0) ptx::mbarrier_arrive(Tile::item_empty(slot.slot));
    }
  }
};

}  // namespace flashinfer::gpu
