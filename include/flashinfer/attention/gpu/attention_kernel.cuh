// The generic attention kernel: decode, append, prefill, any page size, head dimension, group and variant, from Turing on.
// Called by gpu/attention.hpp; its twin is cpu/attention.hpp.
//
// Bound by: memory when an item has few rows (decode), else by mma.sync, whose operands ldmatrix brings from shared memory.
// Threads:  a block of 1 to 8 warps is a worker of the plan and walks its items. Warps share the keys (each has 16 or 32 of the rows)
//           or, when rows are few, the rows (each has its own keys, and they merge at the end of the item).
// Memory:   q's tile, a ring of num_stages tiles of keys and of values, filled by cp.async ahead of their use: keys by num_stages tiles,
//           values by one less, as the slot of a tile's keys is free half a step earlier.
// Sync:     two waits a tile, one for its keys, one for its values; each also frees what the previous step has read. Barriers are a
//           block's when warps share the keys, a warp's when each has its own. Blocks meet at a segment's counter only and none waits.
#pragma once

#include <flashinfer/attention/gpu/attention_load.cuh>
#include <flashinfer/attention/gpu/attention_merge.cuh>
#include <flashinfer/attention/gpu/attention_rope.cuh>
#include <flashinfer/attention/gpu/attention_softmax.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>

namespace flashinfer::gpu {

template <AttentionConfig config, class Variant = BuiltinVariant<config.variant_flags()>>
struct AttentionKernel {
  static_assert(why_invalid(config) == nullptr, "there is no kernel of this config: see why_invalid() in attention_launch_params.hpp");
  static_assert(AttentionVariant<Variant>, "the functor lacks a member of BuiltinVariant (attention/variant.hpp)");

  using Params = AttentionParams;
  static constexpr AttentionConfig kConfig = config;
  using Tile = AttentionTile<kConfig>;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr int kMinBlocks = min_blocks(kConfig);
  static constexpr int kStages = Tile::kStages;
  static constexpr AttentionSmem kSmem = Tile::kSmem;

  static FLASHINFER_DEVICE void run(const Params& p) {
    ptx::griddep_wait();  // the plan itself may come from the previous kernel
    if constexpr (kConfig.rope) Rope<kConfig>::make_table(p.variant);
    AttentionWorks& works = Tile::works();
    if (threadIdx.x == 0) {
      works.cursor = WorkIterator(p.plan, int32_t(blockIdx.x));
      find_next(p);
    }
    for (;;) {
      __syncthreads();  // the next item is known, and nobody reads the one before or its tiles any more
      if (threadIdx.x < sizeof(AttentionWork) / 16)
        reinterpret_cast<uint4*>(&works.current)[threadIdx.x] = reinterpret_cast<const uint4*>(&works.next)[threadIdx.x];
      __syncthreads();
      if (!works.current.has_item) break;
      attend(p);
    }
    ptx::griddep_launch_dependents();
  }

 private:
  using State = WarpState<kConfig, Variant>;
  using Loader = KvLoader<kConfig>;

  /// The item after this one. By one thread, so that the walk over the plan costs the others no registers: some 3 us of divisions
  /// and loads, which it does while the first keys are under way. A call, as it is needed at three places.
  __noinline__ static __device__ void find_next(const Params& p) {
    AttentionWork& next = Tile::works().next;
    WorkIterator items(p.plan, Tile::works().cursor);
    WorkItem item;
    next.has_item = items.next(item);
    if (!next.has_item) return;
    Tile::works().cursor = items;
    next.item = item;
    static_cast<RequestLengths&>(next) = items.at;
  }

  static FLASHINFER_DEVICE void attend(const Params& p) {
    const AttentionWork& work = Tile::work();
    State state;
    const int32_t num_tiles = ceil_div(max(work.item.kv_end - work.item.kv_begin, int32_t(0)), int32_t(kConfig.kv_tile));
    if (num_tiles > 0) {
      visit_keys(p, work, num_tiles, state);
    } else {
      if (threadIdx.x == 0) find_next(p);
      state.clear();
    }
    state.finish();
    if constexpr (kConfig.warps_kv > 1) {
      merge_warps<kConfig, Variant>(p, work, state.m, state.d, state.o);
    } else {
      store_rows<kConfig, Variant>(p, work, state.m, state.d, state.o);
    }
    if (work.item.slot >= 0 && arrives_last<Tile>(p, work.item)) merge_slots<Tile, Variant>(p, work);
  }

  static FLASHINFER_DEVICE void visit_keys(const Params& p, const AttentionWork& work, int32_t num_tiles, State& state) {
    const Loader loader(p, work);
    typename Loader::KCopy k_copy;
    typename Loader::VCopy v_copy;
    load_q<kConfig>(p, work);
    if constexpr (kConfig.head_scales) State::publish_row_scales(p, work);
    ptx::cp_async_commit();
    loader.template publish_first<kStages + 1>(p);
    Tile::sync_keys();  // the places of the first tiles are known
    if constexpr (Tile::kKvAsync) {
#pragma unroll 1
      for (int i = 0; i < kStages; ++i) {
        if (i < num_tiles) k_copy.copy(Tile::loader(), Loader::k_smem(i), loader.keys(i));
        ptx::cp_async_commit();
        if (i + 1 == kStages) break;
        if (i < num_tiles) v_copy.copy(Tile::loader(), Loader::v_smem(i), loader.values(i));
        ptx::cp_async_commit();
      }
      if (threadIdx.x == 0) find_next(p);
      ptx::cp_async_wait<2 * kStages - 1>();
    } else {
      k_copy.copy(Tile::loader(), Loader::k_smem(0), loader.keys(0));
      if (threadIdx.x == 0) find_next(p);
      ptx::cp_async_wait<0>();
    }
    __syncthreads();  // q is there
    if constexpr (kConfig.rope) rotate_q(p, work);
    state.keep_q();
    state.clear();
    float2 scales_ahead;  // of the own key of the tile kStages ahead: they have a step's time to arrive
    using Rows = WarpRows<kConfig>;
    if (Tile::lane() == 0) Rows::of_warp() = Rows(p, work);
    __syncwarp();
    for (int32_t tile = 0, stage = 0; tile < num_tiles; ++tile) {
      const int32_t first_key = work.item.kv_begin + tile * kConfig.kv_tile + Tile::warp_kv() * Tile::kKeysPerWarp;
      const bool sees = Rows::of_warp().sees(first_key);
      uint32_t probabilities[Tile::kRowFragments][Tile::kScoreFragments / 2][4];

      // The tile's keys are there, and nobody reads the values of the tile before any more.
      if constexpr (Tile::kKvAsync) ptx::cp_async_wait<2 * kStages - 2>();
      Tile::sync_keys();
      begin_values(loader, v_copy, tile, stage, num_tiles);
      if constexpr (kConfig.rope) rotate_k(loader, tile, stage);
      if (sees) {
        float s[Tile::kRowFragments][Tile::kScoreFragments][4];
        state.scores(s, stage);
        state.scale_scores(s, loader.scales(tile));
        const float scale = state.logits(s, p, work, Rows::of_warp(), first_key);
        state.softmax(s, scale, probabilities);
      }
      if constexpr (!Tile::kKvAsync) v_copy.store(Tile::loader(), Loader::v_smem(0), loader.values(tile));

      // The tile's values are there, and nobody reads its keys any more.
      if constexpr (Tile::kKvAsync) ptx::cp_async_wait<2 * kStages - 2>();
      Tile::sync_keys();
      begin_keys(loader, k_copy, tile, stage, num_tiles);
      const typename Loader::Row ahead = loader.find_own(tile + kStages + 1);
      if (sees) state.accumulate(probabilities, stage);
      if constexpr (kConfig.token_scales) {
        if (tile > 0) loader.publish_own_scales(tile + kStages, scales_ahead);
        scales_ahead = loader.find_own_scales(p, tile + kStages + 1, ahead);
      }
      loader.publish_own(tile + kStages + 1, ahead);
      if constexpr (!Tile::kKvAsync) {
        if (tile + 1 < num_tiles) k_copy.store(Tile::loader(), Loader::k_smem(0), loader.keys(tile + 1));
      } else {
        stage = stage + 1 == kStages ? 0 : stage + 1;
      }
    }
  }

  /// Starts the values that are due at the first wait of a step: of the tile kStages - 1 ahead, into the slot before this one.
  static FLASHINFER_DEVICE void begin_values(const Loader& loader, typename Loader::VCopy& copy, int32_t tile, int32_t stage,
                                             int32_t num_tiles) {
    if constexpr (Tile::kKvAsync) {
      if (tile + kStages - 1 < num_tiles)
        copy.copy(Tile::loader(), Loader::v_smem(stage == 0 ? kStages - 1 : stage - 1), loader.values(tile + kStages - 1));
      ptx::cp_async_commit();
    } else {
      copy.fetch(Tile::loader(), loader.values(tile));
    }
  }
  /// At the second wait: the keys kStages ahead, into this slot.
  static FLASHINFER_DEVICE void begin_keys(const Loader& loader, typename Loader::KCopy& copy, int32_t tile, int32_t stage,
                                           int32_t num_tiles) {
    if constexpr (Tile::kKvAsync) {
      if (tile + kStages < num_tiles) copy.copy(Tile::loader(), Loader::k_smem(stage), loader.keys(tile + kStages));
      ptx::cp_async_commit();
    } else {
      if (tile + 1 < num_tiles) copy.fetch(Tile::loader(), loader.keys(tile + 1));
    }
  }

  static FLASHINFER_DEVICE void rotate_q(const Params& p, const AttentionWork& work) {
    const int32_t group_size = p.plan.group_size(), first_row = work.item.q_tile * kConfig.q_tile;
    Rope<kConfig>::template rotate<kConfig.q_tile, kSmem.q_pitch, kThreads>(
        int(threadIdx.x), dynamic_smem() + kSmem.q, [&](int row) { return work.kv_len - work.qo_len + (first_row + row) / group_size; });
    __syncthreads();
  }
  static FLASHINFER_DEVICE void rotate_k(const Loader& loader, int32_t tile, int32_t stage) {
    const int32_t first_key = loader.first_key(tile);
    Rope<kConfig>::template rotate<Tile::kLoadKeys, kSmem.k_pitch, Tile::kLoadThreads>(Tile::loader(), Loader::k_smem(stage),
                                                                                       [&](int row) { return first_key + row; });
    Tile::sync_keys();
  }
};

}  // namespace flashinfer::gpu
