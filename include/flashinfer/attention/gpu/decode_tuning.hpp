// Host only. Which decode kernel runs a problem on a device, and when it does. Everything is constexpr: chosen and tested on machines
// without a GPU.
#pragma once

#include <array>

#include <flashinfer/attention/gpu/attention_tuning.hpp>
#include <flashinfer/attention/gpu/decode_launch_params.hpp>

namespace flashinfer::gpu {

/// Why a config can not run on a device, or null.
constexpr const char* why_invalid(const DecodeConfig& c, const DeviceInfo& device) {
  if (const char* reason = why_invalid(c)) return reason;
  if (device.arch.number < 80) return "the decode kernel needs sm_80 or later";
  if (smem_bytes(c) > device.smem_per_block) return "its tiles take more shared memory than a block has";
  return nullptr;
}
constexpr const char* why_invalid(const DecodeConfig& c, Arch arch) { return why_invalid(c, device_info_of(arch)); }

/// Blocks that run at a time on so many multiprocessors. A cluster more than fit would begin when others end: 1 x 8192 keys x 8 heads take
/// 24.6 us where 66 clusters of 4 are launched and 62 fit, 19.5 with 32 (H100).
constexpr int32_t workers_at_once(const DecodeConfig& c, int32_t num_sms, const DeviceInfo& device) {
  const int64_t blocks = clusters_at_once(c.cluster_blocks, c.blocks_per_sm, device) * c.cluster_blocks;
  return int32_t(min(blocks, int64_t(num_sms) * c.blocks_per_sm));
}

/// What beginning and ending an item costs a block, in key tiles, where workers have several: 16 x 1024 keys x 8 heads take 25.9 us with 4,
/// 26.3 with 2, and large batches the same with 0 to 8. Where a worker has a part of one segment, it would but leave workers idle:
/// 1 x 1024 takes 9.4 us with 0, 10.5 with 2 (H200).
constexpr int item_units(const DecodeConfig&, int64_t num_segments, int32_t max_workers) { return 2 * num_segments > max_workers ? 4 : 0; }
/// A worker is not worth its merge below this many keys: 1 x 1024 keys take 9.6 us with 64, 11 with 32 and 9.8 with 128 (H200). Clusters
/// share a segment by as many keys a block at least: others need not be launched.
constexpr int min_keys_per_worker(const DecodeConfig& c) { return c.cluster_blocks > 1 ? kClusterPartKeys : 64; }

/// Also where one block has a multiprocessor for itself and four of 132 stay idle: 64 rows x 32 x 8192 keys take 367 us with 8 lanes, 380
/// with 4, 385 with 1, 32 rows 362 and 369 (H100; by wgmma instead of mma.sync the same to 0.2 %).
constexpr int head_lanes(const DecodeConfig& c, int num_heads, int max_workers) { return head_lanes(c.q_tile, num_heads, max_workers); }

/// As many stages as shared memory holds: what is under way is what keeps memory busy. What they leave is for merging. False: too few fit.
constexpr bool take_stages(DecodeConfig& c, const DeviceInfo& device, int most_stages) {
  const int available = min(device.smem_per_block, device.smem_per_sm / c.blocks_per_sm - 1024);
  const auto fits = [&] { return smem_bytes(c) <= available; };
  c.merge_parts = 1;
  for (c.num_stages = most_stages; c.num_stages > max(c.warps_kv, 2) && !fits(); c.num_stages -= c.warps_kv) {
  }
  if (!fits()) return false;
  for (c.merge_parts = 16; !fits(); --c.merge_parts) {
  }
  return true;
}

/// The kernel of a plan for a call with scales of heads, of tokens: these take the place of a few stages.
constexpr DecodeConfig with_scales(DecodeConfig c, bool heads, bool tokens, const DeviceInfo& device) {
  c.head_scales = heads, c.token_scales = tokens;
  if (tokens) take_stages(c, device, c.num_stages);
  return c;
}

/// As many blocks as shared memory holds stages for.
constexpr void take_shared_memory(DecodeConfig& c, const DeviceInfo& device, int most_stages) {
  for (c.blocks_per_sm = c.warps_q * c.warps_kv <= 4 ? 2 : 1; !take_stages(c, device, most_stages) && c.blocks_per_sm > 1;
       --c.blocks_per_sm) {
  }
}

/// The decode kernel of a problem. Rows of a tile: the least of 8, 16, 32 and 64 that holds a request's queries and their group.
constexpr DecodeConfig tune_decode(const AttentionProblem& p, const DeviceInfo& device) {
  DecodeConfig c;
  c.q = p.q, c.kv = p.kv, c.out = p.out;
  c.head_dim_qk = p.head_dim_qk, c.head_dim_vo = p.head_dim_vo;
  c.paged = p.page_size > 0;
  c.limits = p.causal || p.window_left >= 0;
  c.soft_cap = p.flags.soft_cap, c.alibi = p.flags.alibi, c.custom_mask = p.flags.custom_mask, c.sinks = p.flags.sinks;

  const int64_t rows = int64_t(max(p.max_qo_len, int32_t(1))) * (p.num_qo_heads / max(p.num_kv_heads, int32_t(1)));
  c.q_tile = rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
  // A stage of some 16 KB: long enough that its barriers cost nothing, short enough that every group of warps has one.
  const int token_bytes = 128 * (row_blocks(p.kv, p.head_dim_qk) + row_blocks(p.kv, p.head_dim_vo));
  c.kv_tile = token_bytes <= 256 ? 64 : token_bytes <= 640 ? 32 : 16;
  // Sixteen rows a warp where a thread has registers for their accumulators.
  const bool wide = max(p.head_dim_qk, p.head_dim_vo) > 128;
  c.warps_q = c.q_tile == 8 ? 1 : c.q_tile / (wide ? 8 : 16);
  c.warps_kv = c.warps_q <= 2 ? 4 : 8 / c.warps_q;
  // Sixteen rows leave room for the scores of half as many keys where these are converted, or single logits are touched, or ptxas wants a
  // few registers more than for sm_90.
  if (rows_per_warp(c) == 16 && is_float8(c.kv)) c.kv_tile = max(c.kv_tile / 2, 16);
  if (rows_per_warp(c) == 16 && (c.soft_cap || c.alibi || c.custom_mask || device.arch.number != 90)) c.kv_tile = max(c.kv_tile / 2, 16);
  // Loading warps on the H200, us with 1 / 2 / 4: 8 rows 73.3 / 72.8 / - (one kv head), e4m3 255.5 / 252.1 / -, 16 rows 491.3 / 488.7 / -,
  // 64 rows, where one block has a multiprocessor for itself, 312 / 285 / 277.
  c.load_warps = c.warps_q * c.warps_kv <= 4 ? 2 : 4;
  c.num_items = c.q_tile == 8 ? 3 : 2;
  take_shared_memory(c, device, 12 / c.warps_kv * c.warps_kv);
  if (is_float8(c.kv) && c.kv_tile > 16 && why_invalid(with_scales(c, true, true, device), device)) {  // which a call may have
    c.kv_tile /= 2;
    take_shared_memory(c, device, 12 / c.warps_kv * c.warps_kv);
  }
  return c;
}

/// The config with clusters, or as it is where it has no room for them.
constexpr DecodeConfig with_clusters(const DecodeConfig& c, int blocks, const DeviceInfo& device) {
  if (device.arch.number < 90 || c.q_tile > 16 || c.blocks_per_sm < 2 || blocks == 1) return c;
  DecodeConfig with = c;
  with.cluster_blocks = blocks;
  with.kv_tile = max(c.kv_tile / 2, 16);  // a share is short: the warps begin sooner
  // 1 x 1024 keys x 8 heads take 5.95 us with 4 loading warps, 6.2 with 2 (H100). Two such blocks leave a thread 128 registers: too few for
  // more accumulators, where keys are converted, and for ptxas on other architectures.
  if (blocks == 8 && accumulators(with) <= 60 && !is_float8(c.kv) && device.arch.number == 90) with.load_warps = 4;
  take_shared_memory(with, device, 2 * c.num_stages);
  return with.blocks_per_sm == c.blocks_per_sm && why_invalid(with, device) == nullptr ? with : c;
}

/// The same with clusters of blocks that share a segment, where there are so few segments that cutting them and merging through global
/// memory takes longer. On the H100, us in pieces, with clusters of 2, 4 and 8: 1 x 1024 keys x 8 heads 9.9, 7.8, 8.0 and 6.1, 1 x
/// 8192 21.3, 17.2, 17.3 and 17.8, 1 x 32768 54.9, 50.7, 51.5 and 53.9, 2 x 8192 31.5, 28.7, 30.3 and 38, 4 x 2048 19.3, 16.5, 19.3 and 22,
/// 16 x 1024 29.9, 26.7, 34.6 and 43, 64 x 8192 keys of one head 98.0, 96.6, 111 and 105.
///   most_keys  of a request on average, or INT64_MAX where nobody knows
constexpr DecodeConfig tune_cluster(const DecodeConfig& c, int64_t num_segments, int64_t most_keys, const DeviceInfo& device) {
  if (8 * num_segments <= device.num_sms && most_keys <= 2048) return with_clusters(c, 8, device);
  return num_segments <= device.num_sms ? with_clusters(c, 2, device) : c;
}
/// All configs that a problem may get, for those who compile kernels ahead.
constexpr std::array<DecodeConfig, 3> decode_configs(const AttentionProblem& p, const DeviceInfo& device) {
  const DecodeConfig c = tune_decode(p, device);
  return {c, with_clusters(c, 2, device), with_clusters(c, 8, device)};
}

/// Blocks of a launch.
inline int32_t num_blocks(const AttentionPlan& plan, const AttentionConfig&) { return plan.max_workers; }
inline int32_t num_blocks(const AttentionPlan& plan, const DecodeConfig& c) {
  if (c.cluster_blocks == 1) return plan.max_workers;
  return round_up(max(plan.max_workers, plan.batch_size * plan.num_heads() * c.cluster_blocks), c.cluster_blocks);
}
inline uint32_t blocks_of_cluster(const AttentionConfig&) { return 1; }
inline uint32_t blocks_of_cluster(const DecodeConfig& c) { return uint32_t(c.cluster_blocks); }

/// Why the decode kernel does not take a problem, or null: for those who ask for it by name.
constexpr const char* why_not_decode(const AttentionProblem& p, const DeviceInfo& device) {
  if (p.flags.rope) return "the decode kernel has no RoPE in attention";
  return why_invalid(tune_decode(p, device), device);
}

/// Does the decode kernel run a problem that leaves the choice? A pure function of shape, dtypes and architecture: up to 64 rows of queries
/// a key head, which is where reading the keys takes longer than multiplying them. A batch-invariant problem of unknown or many query
/// tokens has one kernel for all of them.
constexpr bool prefers_decode(const AttentionProblem& p, const DeviceInfo& device) {
  const int64_t rows = int64_t(p.max_qo_len) * (p.num_qo_heads / max(p.num_kv_heads, int32_t(1)));
  return p.max_qo_len > 0 && rows <= 64 && why_not_decode(p, device) == nullptr;
}

/// The kernel of a problem: the caller's, or the decode kernel where it is the better one, else the generic one.
constexpr AttentionBackend choose_backend(const AttentionProblem& p, const DeviceInfo& device) {
  if (p.backend != AttentionBackend::automatic) return p.backend;
  return prefers_decode(p, device) ? AttentionBackend::decode : AttentionBackend::generic;
}

/// Calls visit(config) for the kernels that most models need, to precompile them.
template <class Visit>
constexpr void for_each_tuned_decode(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  const auto tuned = [&](AttentionProblem p) {
    for (int32_t qo_len : {1, 4, 16}) {
      p.max_qo_len = qo_len;
      if (prefers_decode(p, device)) visit(tune_decode(p, device));
    }
  };
  for (DType dtype : {DType::bf16, DType::f16})
    for (int32_t causal : {0, 1}) tuned({.q = dtype, .kv = dtype, .out = dtype, .causal = causal});
  for (int32_t head_dim : {64, 96, 256}) tuned({.head_dim_qk = head_dim, .head_dim_vo = head_dim, .causal = 1});
  for (DType kv : {DType::bf16, DType::e4m3})
    for (const DecodeConfig& config : decode_configs({.kv = kv, .max_qo_len = 1}, device))
      if (config.cluster_blocks > 1) visit(config);
  for (int32_t causal : {0, 1}) {
    tuned({.kv = DType::e4m3, .causal = causal});
    const AttentionProblem p = {.kv = DType::e4m3, .causal = causal, .max_qo_len = causal ? 4 : 1};
    if (!prefers_decode(p, device)) continue;
    visit(with_scales(tune_decode(p, device), true, false, device));
    visit(with_scales(tune_decode(p, device), false, true, device));
  }
  tuned({.causal = 1, .window_left = 128, .flags = {.sinks = true}});
  tuned({.causal = 1, .flags = {.soft_cap = true}});
  tuned({.flags = {.custom_mask = true}});
}

}  // namespace flashinfer::gpu
