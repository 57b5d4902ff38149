// What the host and device halves of the decode kernel share: its config. Its parameters are AttentionParams.
#pragma once

#include <flashinfer/attention/attention_params.hpp>

namespace flashinfer {

/// Query rows that its tiles have.
inline constexpr int32_t kDecodeTiles[] = {8, 16, 32, 64};

/// Compile-time choices of the decode kernel (gpu/decode_kernel.cuh).
struct DecodeConfig {
  DType q = DType::bf16, kv = DType::bf16, out = DType::bf16;
  int head_dim_qk = 128, head_dim_vo = 128;
  int q_tile = 8;                 // packed rows (token-major, head-minor) of one kv head per work item
  int kv_tile = 32;               // keys of a stage of the ring
  int warps_q = 1, warps_kv = 4;  // warps that share a stage's keys and have rows of their own; groups of them, each with stages of its own
  int load_warps = 1;
  int num_stages = 4;   // a multiple of warps_kv
  int num_items = 3;    // items that the loading warps may have begun
  int merge_parts = 4;  // of partial results, under way at a time for each thread that merges
  int blocks_per_sm = 2;
  int cluster_blocks = 1;  // blocks that share a segment where lengths are even enough; 1: none (gpu/decode_cluster.cuh)
  bool paged = true;
  bool limits = true;  // causal or sliding window: tiles at the edge of kv_range are masked
  bool soft_cap = false, alibi = false, custom_mask = false, sinks = false;
  bool head_scales = false, token_scales = false;  // has AttentionScales of heads, of tokens (of an FP8 cache)

  static constexpr const char* kName = "DecodeConfig";
  static constexpr const char* kKernel = "DecodeKernel";
  static constexpr const char* kHeader = "attention/gpu/decode_kernel.cuh";
  template <class F>
  FLASHINFER_HOST_DEVICE constexpr void for_each_field(F&& f) const {
    f("q", q), f("kv", kv), f("out", out), f("head_dim_qk", head_dim_qk), f("head_dim_vo", head_dim_vo), f("q_tile", q_tile),
        f("kv_tile", kv_tile), f("warps_q", warps_q), f("warps_kv", warps_kv), f("load_warps", load_warps), f("num_stages", num_stages),
        f("num_items", num_items), f("merge_parts", merge_parts), f("blocks_per_sm", blocks_per_sm), f("cluster_blocks", cluster_blocks),
        f("paged", paged), f("limits", limits), f("soft_cap", soft_cap), f("alibi", alibi), f("custom_mask", custom_mask),
        f("sinks", sinks), f("head_scales", head_scales), f("token_scales", token_scales);
  }
  constexpr VariantFlags variant_flags() const { return {soft_cap, alibi, custom_mask, sinks, false}; }
};

}  // namespace flashinfer
