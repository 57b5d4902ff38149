// What the host and the device half of the generic attention kernel must agree on: which configs exist, their threads,
// the layout of their shared memory, the blocks that a multiprocessor's registers hold.
#pragma once

#include <flashinfer/attention/attention_params.hpp>

namespace flashinfer::gpu {

FLASHINFER_HOST_DEVICE constexpr int num_threads(const AttentionConfig& c) { return 32 * c.warps_q * c.warps_kv; }
/// Columns of mma tiles.
FLASHINFER_HOST_DEVICE constexpr int padded(int head_dim) { return round_up(head_dim, 16); }
FLASHINFER_HOST_DEVICE constexpr int vo_tiles(const AttentionConfig& c) { return ceil_div(c.head_dim_vo, c.vo_tile); }
FLASHINFER_HOST_DEVICE constexpr int rows_per_warp(const AttentionConfig& c) { return c.q_tile / c.warps_q; }
FLASHINFER_HOST_DEVICE constexpr int keys_per_warp(const AttentionConfig& c) { return c.kv_tile / c.warps_kv; }

/// Why no kernel has this config, or null. What an architecture can not hold: why_invalid(config, device).
FLASHINFER_HOST_DEVICE constexpr const char* why_invalid(const AttentionConfig& c) {
  if (!is_float16(c.q) && !is_float8(c.q)) return "q must be f16, bf16, e4m3 or e5m2";
  if (!(c.kv == c.q || is_float8(c.kv) || (c.kv == DType::f16 && is_float8(c.q))))
    return "keys and values must have q's dtype or be e4m3 or e5m2";
  if (c.out != DType::f32 && !is_float16(c.out) && !is_float8(c.out)) return "the output must be f16, bf16, f32, e4m3 or e5m2";
  if (c.head_dim_qk < 8 || c.head_dim_qk > 512 || c.head_dim_qk % 8) return "head_dim_qk must be a multiple of 8 up to 512";
  if (c.head_dim_vo < 8 || c.head_dim_vo > 512 || c.head_dim_vo % 8) return "head_dim_vo must be a multiple of 8 up to 512";
  if (c.vo_tile < 8 || c.vo_tile > c.head_dim_vo || c.vo_tile % 8) return "vo_tile must be a multiple of 8 up to head_dim_vo";
  if (c.warps_q < 1 || c.warps_kv < 1 || c.warps_q * c.warps_kv > 8) return "a block has 1 to 8 warps";
  if (c.warps_kv > 1 && c.warps_q > 1) return "warps share either the rows or the keys";
  if (c.q_tile % c.warps_q || (rows_per_warp(c) != 16 && rows_per_warp(c) != 32)) return "a warp has 16 or 32 rows";
  if (c.warps_kv > 1 && rows_per_warp(c) != 16) return "warps that share their rows have 16";
  if (c.kv_tile % (16 * c.warps_kv)) return "a warp's keys are a multiple of 16";
  if (c.kv_tile > (c.warps_q == 1 ? 32 * c.warps_kv : num_threads(c))) return "a thread looks up one key at most";
  // Accumulators of the output and of the scores; the rest needs about 60 registers.
  if (rows_per_warp(c) * (padded(c.vo_tile) + keys_per_warp(c)) > 32 * 192) return "more accumulators than a thread has registers for";
  if (c.num_stages < 1 || c.num_stages > 4) return "1 to 4 stages";
  if (c.token_scales && !is_float8(c.kv)) return "tokens of e4m3 and e5m2 caches have scales, others have none";
  return nullptr;
}

/// Are keys and values copied to shared memory through registers: to be converted, or for want of cp.async (sm_75)?
FLASHINFER_HOST_DEVICE constexpr bool converts_kv(const AttentionConfig& c) { return c.kv != c.q || is_float8(c.q); }

/// Does a warp keep its fragments of q in registers, rather than read them again for every tile? It pays where q is half of what
/// a step reads (16 keys), not where it is a fifth (64 keys).
FLASHINFER_HOST_DEVICE constexpr bool keeps_q(const AttentionConfig& c) {
  return keys_per_warp(c) <= 32 && rows_per_warp(c) * (padded(c.vo_tile) + keys_per_warp(c) + padded(c.head_dim_qk) / 2) <= 32 * 110;
}

/// Shared memory that merging slots takes (gpu/attention_merge.cuh): where each row goes, and so many parts of every thread, each four
/// columns and the softmax states of a pair of rows.
inline constexpr int kMergedRowBytes = 32, kMergedPartBytes = 2 * 16;
FLASHINFER_HOST_DEVICE constexpr int merge_bytes(int q_tile, int num_threads, int num_parts) {
  return q_tile * kMergedRowBytes + num_threads * num_parts * kMergedPartBytes;
}

/// Byte offsets of dynamic shared memory. Rows of tiles are an odd number of 16-byte chunks apart, so that the eight rows
/// that ldmatrix reads at a time lie in different banks whatever the head dimension.
struct AttentionSmem {
  int q_pitch, k_pitch, v_pitch;  // bytes from row to row
  int k_stage, v_stage;           // bytes from stage to stage
  int q, k, v;                    // tiles; at the end of an item scratch for merging
  int merge_max, merge_sum;       // of every warp's rows, behind the warps' accumulators at k
  int tiles_end;
  int num_places;                // tiles whose row places are kept, a power of two
  int places, rope, rows, work;  // rows: what each warp's rows may see
  int scales;                    // of tokens, beside their places: of the key, of the value
  int size;

  static constexpr int kPlaceBytes = 16;
  static constexpr int kWorkBytes = 256;

  FLASHINFER_HOST_DEVICE static constexpr int pitch(int head_dim) { return 16 * (padded(head_dim) / 8 | 1); }

  FLASHINFER_HOST_DEVICE constexpr explicit AttentionSmem(const AttentionConfig& c)
      : q_pitch(pitch(c.head_dim_qk)),
        k_pitch(pitch(c.head_dim_qk)),
        v_pitch(pitch(c.vo_tile)),
        k_stage(c.kv_tile * k_pitch),
        v_stage(c.kv_tile * v_pitch),
        q(0),
        k(round_up(c.q_tile * q_pitch, 128)),
        v(k + c.num_stages * k_stage),
        merge_max(k + c.warps_kv * 64 * (padded(c.vo_tile) + 8)),
        merge_sum(merge_max + c.warps_kv * 64),
        tiles_end(0),
        num_places(c.num_stages == 1  ? 2
                   : c.num_stages < 4 ? 4
                                      : 8),
        places(0),
        rope(0),
        rows(0),
        work(0),
        scales(0),
        size(0) {
    // Scratch: the accumulators of warps that share rows, or the merge of slots.
    const int scratch = max(c.warps_kv > 1 ? merge_sum + c.warps_kv * 64 - k : 0, merge_bytes(c.q_tile, num_threads(c), 1));
    tiles_end = k + max(c.num_stages * (k_stage + v_stage), scratch);
    places = round_up(tiles_end, 16);
    rope = places + num_places * c.kv_tile * kPlaceBytes;
    rows = round_up(rope + (c.rope ? c.head_dim_qk / 2 * 8 : 0), 16);
    work = rows + c.warps_q * c.warps_kv * 16;
    scales = work + kWorkBytes;
    size = scales + (c.token_scales ? num_places * c.kv_tile * 8 : 0);
  }
};

FLASHINFER_HOST_DEVICE constexpr int smem_bytes(const AttentionConfig& c) { return AttentionSmem(c).size; }

/// Blocks that the 64 K registers of a multiprocessor hold: the launch bound that the kernel is compiled with. What is not an
/// accumulator or q takes up to 88 registers, as ptxas counted over tuned configs; a tile held on its way through registers 24 more.
FLASHINFER_HOST_DEVICE constexpr int min_blocks(const AttentionConfig& c) {
  const int accumulators = rows_per_warp(c) * (padded(c.vo_tile) + keys_per_warp(c)) / 32;
  const int q = rows_per_warp(c) * (keeps_q(c) ? padded(c.head_dim_qk) / 2 : 8) / 32;
  const bool holds_tiles = converts_kv(c) || c.num_stages == 1;
  const int registers = min(round_up(accumulators + q + (holds_tiles ? 24 : 0) + 88, 8), 248);
  // Registers are a quarter of a multiprocessor's own: whole warps of 32 threads fit into 16 K.
  const int by_registers = 4 * (512 / registers) / (num_threads(c) / 32);
  const int by_smem = (228 << 10) / (smem_bytes(c) + 1024);  // more blocks than the largest part can hold are of no use
  return clamp(min(by_registers, by_smem), 1, 1024 / num_threads(c));
}

/// The planner on the device (gpu/attention_plan_kernel.cuh): one block a plan.
struct AttentionPlanConfig {
  int threads = 512;  // 1024 would leave 64 registers, too few for its 64-bit counts

  static constexpr const char* kName = "AttentionPlanConfig";
  static constexpr const char* kKernel = "AttentionPlanKernel";
  static constexpr const char* kHeader = "attention/gpu/attention_plan_kernel.cuh";
  template <class F>
  FLASHINFER_HOST_DEVICE constexpr void for_each_field(F&& f) const {
    f("threads", threads);
  }
};

}  // namespace flashinfer::gpu
