// What the host and the device half of the decode kernel must agree on: which configs exist, their threads, the layout of their
// shared memory.
#pragma once

#include <flashinfer/attention/decode_params.hpp>
#include <flashinfer/attention/gpu/attention_launch_params.hpp>

namespace flashinfer::gpu {

FLASHINFER_HOST_DEVICE constexpr int consumer_threads(const DecodeConfig& c) { return 32 * c.warps_q * c.warps_kv; }
FLASHINFER_HOST_DEVICE constexpr int num_threads(const DecodeConfig& c) { return consumer_threads(c) + 32 * c.load_warps; }
FLASHINFER_HOST_DEVICE constexpr int vo_tiles(const DecodeConfig&) { return 1; }
FLASHINFER_HOST_DEVICE constexpr int rows_per_warp(const DecodeConfig& c) { return c.q_tile / c.warps_q; }
/// Registers of a thread that computes for the accumulators of the output and of the scores, and q. The rest needs about 60.
FLASHINFER_HOST_DEVICE constexpr int accumulators(const DecodeConfig& c) {
  return rows_per_warp(c) * (c.head_dim_vo + c.kv_tile + c.head_dim_qk / 2) / 32;
}
/// Bytes of a row of keys or values in memory, and of its place in a stage: whole blocks of 128 bytes.
FLASHINFER_HOST_DEVICE constexpr int row_bytes(DType dtype, int head_dim) { return head_dim * (is_float8(dtype) ? 1 : 2); }
FLASHINFER_HOST_DEVICE constexpr int row_blocks(DType dtype, int head_dim) { return ceil_div(row_bytes(dtype, head_dim), 128); }

/// Keys of a block at least, where several clusters divide a segment.
inline constexpr int kClusterPartKeys = 128;

/// What all strides of a cache are multiples of, in bytes: a power of two up to 4096.
FLASHINFER_HOST_DEVICE constexpr int64_t stride_unit(const KvView& kv, int32_t element_bytes) {
  const int64_t strides = (kv.k_stride_page | kv.k_stride_token | kv.v_stride_page | kv.v_stride_token) * element_bytes | 4096;
  return strides & -strides;
}

/// Why no kernel has this config, or null. What an architecture can not hold: why_invalid(config, device).
FLASHINFER_HOST_DEVICE constexpr const char* why_invalid(const DecodeConfig& c) {
  if (!is_float16(c.q)) return "q must be f16 or bf16";
  if (c.kv != c.q && !is_float8(c.kv)) return "keys and values must have q's dtype or be e4m3 or e5m2";
  if (c.out != DType::f32 && !is_float16(c.out) && !is_float8(c.out)) return "the output must be f16, bf16, f32, e4m3 or e5m2";
  if (c.head_dim_qk < 32 || c.head_dim_qk > 256 || c.head_dim_qk % 32) return "head_dim_qk must be a multiple of 32 up to 256";
  if (c.head_dim_vo < 32 || c.head_dim_vo > 256 || c.head_dim_vo % 32) return "head_dim_vo must be a multiple of 32 up to 256";
  if (c.warps_q < 1 || c.warps_kv < 1 || c.warps_q * c.warps_kv > 8) return "1 to 8 warps compute";
  if (c.load_warps < 1 || c.load_warps > 4) return "1 to 4 warps load";
  if (c.q_tile % (8 * c.warps_q)) return "a warp's rows are a multiple of 8";
  if (c.kv_tile != 16 && c.kv_tile != 32 && c.kv_tile != 64) return "a stage has 16, 32 or 64 keys";
  if (accumulators(c) > 192) return "more accumulators than a thread has registers for";
  if (!is_power_of_two(c.cluster_blocks) || c.cluster_blocks > 16 || c.head_dim_vo % (4 * c.cluster_blocks))
    return "a cluster has 1, 2, 4, 8 or 16 blocks, which share the output's columns by fours";
  if (c.token_scales && !is_float8(c.kv)) return "tokens of e4m3 and e5m2 caches have scales, others have none";
  if (c.merge_parts < 1 || c.merge_parts > 16) return "1 to 16 parts are under way when slots are merged";
  if (c.num_stages < 2 || c.num_stages > 32 || c.num_items < 2 || c.num_items > 8) return "2 to 32 stages, 2 to 8 items";
  // Else a group might wait for the lap after the next of a slot that another group has, and take the parity of the one before for its own.
  if (c.num_stages % c.warps_kv) return "every group of warps has stages of its own: their number is a multiple of warps_kv";
  return nullptr;
}

/// Byte offsets of dynamic shared memory. A stage holds the keys, then the values, of kv_tile tokens in blocks of 128 bytes a row; the
/// eight 16-byte chunks of a block's row are permuted by its key (the copy engine's 128-byte swizzle), so that ldmatrix meets no bank
/// twice.
struct DecodeSmem {
  int k_blocks, v_blocks;
  int block_bytes, v, stage_bytes;  // of a stage: a block of all its keys, where the values begin, all
  int q_pitch, q_bytes;             // rows of q an odd number of 16-byte chunks apart
  int row_floats;                   // of the accumulators' rows in scratch: fragments of eight rows meet no bank twice
  int q, scratch, maxima, sums, works, limits, barriers, is_last;  // scratch: what groups, then slots are merged in; limits: what each
                                                                   // warp's rows may see
  int cluster_columns, cluster_states;  // what the blocks of a cluster push here: [block, row, column], [block, row]
  int scales;                           // of tokens: [stage, keys then values, token]
  int size;

  static constexpr int kWorkBytes = 96;

  FLASHINFER_HOST_DEVICE constexpr explicit DecodeSmem(const DecodeConfig& c)
      : k_blocks(row_blocks(c.kv, c.head_dim_qk)),
        v_blocks(row_blocks(c.kv, c.head_dim_vo)),
        block_bytes(128 * c.kv_tile),
        v(k_blocks * block_bytes),
        stage_bytes((k_blocks + v_blocks) * block_bytes),
        q_pitch(16 * (c.head_dim_qk / 8 | 1)),
        q_bytes(c.q_tile * q_pitch),
        row_floats(c.head_dim_vo + 4),
        q(c.num_stages * stage_bytes),
        scratch(round_up(q + c.num_items * q_bytes, 128)),
        maxima(scratch + max(c.warps_kv * c.q_tile * row_floats * 4, merge_bytes(c.q_tile, consumer_threads(c), c.merge_parts))),
        sums(maxima + c.warps_kv * c.q_tile * 4),
        works(round_up(sums + c.warps_kv * c.q_tile * 4, 16)),
        limits(works + c.num_items * kWorkBytes),
        barriers(limits + c.warps_q * c.warps_kv * 16),
        is_last(barriers + 16 * (c.num_stages + c.num_items)),
        cluster_columns(is_last + 16),
        cluster_states(cluster_columns + (c.cluster_blocks > 1 ? c.q_tile * c.head_dim_vo * 4 : 0)),
        scales(cluster_states + (c.cluster_blocks > 1 ? c.cluster_blocks * c.q_tile * 8 : 0)),
        size(scales + (c.token_scales ? c.num_stages * c.kv_tile * 8 : 0)) {}
};

FLASHINFER_HOST_DEVICE constexpr int smem_bytes(const DecodeConfig& c) { return DecodeSmem(c).size; }

}  // namespace flashinfer::gpu
