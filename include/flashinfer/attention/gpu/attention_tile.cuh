// What every part of the generic attention kernel derives from its config: types, counts, the thread's place in the tile.
#pragma once

#include <flashinfer/attention/gpu/attention_launch_params.hpp>
#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/cp_async_sm80.cuh>
#include <flashinfer/gpu/ptx/ldmatrix.cuh>
#include <flashinfer/gpu/ptx/mma_sm80.cuh>
#include <flashinfer/gpu/vec.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// An item, in shared memory: one thread asks the plan, the others read.
struct alignas(16) AttentionWork : RequestLengths {
  WorkItem item;
  int32_t has_item;

  FLASHINFER_DEVICE int32_t group_size(const AttentionParams& p) const { return p.plan.group_size(); }
  /// Of a packed row.
  FLASHINFER_DEVICE int32_t token_of(const AttentionParams& p, int32_t packed) const { return packed / p.plan.group_size(); }
};
/// The item at hand, and the one after it, which is looked up while the first keys of this one are under way.
struct AttentionWorks {
  AttentionWork current, next;
  WorkCursor cursor;
  int32_t is_last;  // did this block arrive last at the segment's counter?
};
static_assert(sizeof(AttentionWorks) <= AttentionSmem::kWorkBytes);

/// Shared memory that nobody else uses while a block merges.
struct MergeSpace {
  unsigned char* data;
  int bytes;
};

template <AttentionConfig kConfig>
struct AttentionTile {
  using Q = number_t<kConfig.q>;
  using Kv = number_t<kConfig.kv>;
  using Out = number_t<kConfig.out>;
  /// What lies in shared memory and enters mma. FP8 becomes f16 or bf16, exactly. Turing has no bf16 mma: there bf16
  /// becomes f16, exactly within f16's range; magnitudes above 65504 saturate, below 2^-24 vanish.
  using Operand = conditional_t<kConfig.q == DType::bf16 && ptx::kHasBf16Mma, bf16, f16>;

  static constexpr AttentionSmem kSmem{kConfig};
  static constexpr int kThreads = num_threads(kConfig);
  static constexpr int kRowFragments = rows_per_warp(kConfig) / 16;  // of 16 rows
  static constexpr int kKeysPerWarp = keys_per_warp(kConfig);
  static constexpr int kScoreFragments = kKeysPerWarp / 8;           // of 8 keys
  static constexpr int kOutFragments = padded(kConfig.vo_tile) / 8;  // of 8 columns
  static constexpr int kQkSteps = padded(kConfig.head_dim_qk) / 16;
  static constexpr int kStages = kConfig.num_stages;
  // What attention_merge.cuh asks for.
  static constexpr int kQTile = kConfig.q_tile, kVoTile = kConfig.vo_tile, kHeadDimVo = kConfig.head_dim_vo;
  static constexpr int kVoTiles = ceil_div(kConfig.head_dim_vo, kConfig.vo_tile);
  static constexpr bool kHeadScales = kConfig.head_scales;

  /// cp.async moves q, or keys and values, that need no conversion; else a thread loads, converts and stores.
  static constexpr bool kQAsync = ptx::kHasCpAsync && is_same_v<Q, Operand>;
  static constexpr bool kKvAsync = ptx::kHasCpAsync && is_same_v<Kv, Operand>;

  /// Warps that share the rows have keys of their own: each loads and consumes its part of a tile alone, without a barrier.
  static constexpr bool kOwnKeys = kConfig.warps_q == 1;
  static constexpr int kLoadKeys = kOwnKeys ? kKeysPerWarp : kConfig.kv_tile;
  static constexpr int kLoadThreads = kOwnKeys ? kWarpSize : kThreads;

  static FLASHINFER_DEVICE int lane() { return int(threadIdx.x % kWarpSize); }
  static FLASHINFER_DEVICE int warp() { return int(threadIdx.x / kWarpSize); }
  static FLASHINFER_DEVICE int warp_q(int thread = int(threadIdx.x)) {
    return kConfig.warps_kv == 1 ? int(unsigned(thread) / kWarpSize) : 0;
  }
  static FLASHINFER_DEVICE int warp_kv() { return kConfig.warps_kv == 1 ? 0 : warp(); }
  /// The thread among those that load keys together, and their first key in the tile.
  static FLASHINFER_DEVICE int loader() { return kOwnKeys ? lane() : int(threadIdx.x); }
  static FLASHINFER_DEVICE int first_load_key() { return kOwnKeys ? warp() * kKeysPerWarp : 0; }
  /// Row of the tile of the thread's accumulators c0 c1 (half 0) and c2 c3 (half 1).
  static FLASHINFER_DEVICE int row(int fragment, int half, int thread = int(threadIdx.x)) {
    return warp_q(thread) * rows_per_warp(kConfig) + fragment * 16 + half * 8 + int(unsigned(thread) % kWarpSize / 4);
  }
  /// Those who load keys together wait for each other: what one has copied, all may read; what all have read, one may overwrite.
  static FLASHINFER_DEVICE void sync_keys() {
    if constexpr (kOwnKeys) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }
  /// All threads that merge.
  static FLASHINFER_DEVICE void sync() { __syncthreads(); }
  /// Where the tiles lay: no longer needed.
  static FLASHINFER_DEVICE MergeSpace merge_space(const AttentionWork&) { return {dynamic_smem(), kSmem.tiles_end}; }
  static FLASHINFER_DEVICE int32_t& is_last() { return works().is_last; }
  static FLASHINFER_DEVICE AttentionWorks& works() { return *reinterpret_cast<AttentionWorks*>(dynamic_smem() + kSmem.work); }
  static FLASHINFER_DEVICE const AttentionWork& work() { return works().current; }
};

FLASHINFER_DEVICE void saturate_f16(float (&x)[8]) {
#pragma unroll
  for (float& e : x) e = e > largest_v<f16> ? largest_v<f16> : e < -largest_v<f16> ? -largest_v<f16> : e;  // keeps NaN
}

/// Eight elements as the tensor cores take them.
template <class Operand, class T>
FLASHINFER_DEVICE Vec<Operand, 8> to_operand(const Vec<T, 8>& v) {
  if constexpr (is_same_v<Operand, T>) {
    return v;
  } else {
    float x[8];
    v.to_float(x);
    if constexpr (is_same_v<T, bf16>) saturate_f16(x);
    return Vec<Operand, 8>::from_float(x);
  }
}
/// The same of elements that have a scale: what a cache of 16 bits would hold.
template <class Operand, class T>
FLASHINFER_DEVICE Vec<Operand, 8> to_operand(const Vec<T, 8>& v, float scale) {
  float x[8];
  v.to_float(x);
#pragma unroll
  for (float& e : x) e *= scale;
  if constexpr (is_same_v<Operand, f16>) saturate_f16(x);
  return Vec<Operand, 8>::from_float(x);
}

}  // namespace flashinfer::gpu
