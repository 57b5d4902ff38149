// Host only. Which generic attention kernel runs a problem on a device. Everything is constexpr: chosen and tested on machines without a
// GPU.
#pragma once

#include <flashinfer/attention/gpu/attention_launch_params.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer::gpu {

/// Why a config can not run on a device, or null.
constexpr const char* why_invalid(const AttentionConfig& c, const DeviceInfo& device) {
  if (const char* reason = why_invalid(c)) return reason;
  if (device.arch.number < 75) return "attention needs sm_75 or later";
  if (smem_bytes(c) > device.smem_per_block) return "its tiles take more shared memory than a block has";
  return nullptr;
}
constexpr const char* why_invalid(const AttentionConfig& c, Arch arch) { return why_invalid(c, device_info_of(arch)); }

/// Blocks that run on a multiprocessor at a time: what registers and shared memory hold.
constexpr int workers_per_sm(const AttentionConfig& c, const DeviceInfo& device) {
  constexpr int kReserved = 1024;  // bytes of shared memory that CUDA takes of every block (none on sm_75)
  const int by_smem = device.smem_per_sm / (smem_bytes(c) + (device.arch.number >= 80 ? kReserved : 0));
  return clamp(by_smem, 1, min_blocks(c));
}
constexpr int32_t workers_at_once(const AttentionConfig& c, int32_t num_sms, const DeviceInfo& device) {
  return num_sms * workers_per_sm(c, device);
}

/// What beginning and ending an item costs a block, in key tiles: it looks rows up, fills its ring, writes its result. On the H200
/// (8 x 2048 causal, 16 tiles a segment on average) the blocks with the short first segments took twice the mean without it.
constexpr int item_units(const AttentionConfig& c, int64_t, int32_t) { return c.q_tile == 16 ? 2 : 4; }

/// A worker is not worth its merge below this many keys.
constexpr int min_keys_per_worker(const AttentionConfig&) { return 256; }

/// Workers that go side by side over the same keys, a head each, where few rows make a kernel wait for memory: of a token's rows of 256
/// bytes those of eight heads are read at a time. Bare copies of a paged cache ran at 4.3 TB/s on the H200, at 4.0 where each block had
/// a head's keys for itself (benchmarks/micro/decode.cu). No more lanes than leave less than a thirtieth of the workers idle.
constexpr int head_lanes(int q_tile, int num_heads, int max_workers) {
  if (q_tile > 64) return 1;
  for (int lanes : {8, 4, 2})
    if (num_heads % lanes == 0 && max_workers / lanes * lanes * 30 >= max_workers * 29) return lanes;
  return 1;
}

constexpr int head_lanes(const AttentionConfig& c, int num_heads, int max_workers) { return head_lanes(c.q_tile, num_heads, max_workers); }

/// Columns of the output per work item: all, or equal parts where a thread has no registers for so many accumulators.
constexpr int vo_tile_of(int head_dim_vo) {
  const int parts = ceil_div(head_dim_vo, 256);
  return parts == 1 ? head_dim_vo : min(round_up(ceil_div(head_dim_vo, parts), 16), head_dim_vo);
}

/// The kernel of a plan for a call with scales of heads, of tokens.
constexpr AttentionConfig with_scales(AttentionConfig c, bool heads, bool tokens, const DeviceInfo&) {
  c.head_scales = heads, c.token_scales = tokens;
  return c;
}

/// The kernel of a problem. Rows of a tile: 16 when all queries of a request and their group fit (decode), 64, or 128 for prefill.
/// A batch-invariant problem has 64 whatever max_qo_len is, so that a request's bits do not depend on the others.
constexpr AttentionConfig tune(const AttentionProblem& p, const DeviceInfo& device) {
  AttentionConfig c;
  c.q = p.q, c.kv = p.kv, c.out = p.out;
  c.head_dim_qk = p.head_dim_qk, c.head_dim_vo = p.head_dim_vo;
  c.vo_tile = vo_tile_of(p.head_dim_vo);
  c.paged = p.page_size > 0;
  c.limits = p.causal || p.window_left >= 0;
  c.soft_cap = p.flags.soft_cap, c.alibi = p.flags.alibi, c.custom_mask = p.flags.custom_mask;
  c.sinks = p.flags.sinks, c.rope = p.flags.rope;

  const int64_t rows = int64_t(p.max_qo_len) * (p.num_qo_heads / max(p.num_kv_heads, int32_t(1)));
  c.q_tile = p.batch_invariant || p.max_qo_len <= 0 ? 64 : rows <= 16 ? 16 : rows <= 64 ? 64 : 128;

  // Copies through registers have one tile under way, whatever the number of stages.
  const bool copies_async = !converts_kv(c) && device.arch.has_cp_async();
  // From sm_100 on ptxas wants a few more registers than 255 for 32 rows a warp.
  const bool takes_32_rows = padded(c.vo_tile) <= 128 && device.arch.number < 100;
  struct Shape {
    int q_tile, kv_tile, warps_q, warps_kv, num_stages;
  };
  constexpr Shape kDecode[] = {{16, 64, 1, 4, 3}, {16, 64, 1, 4, 2}, {16, 64, 1, 4, 1},
                               {16, 32, 1, 2, 2}, {16, 32, 1, 2, 1}, {16, 16, 1, 1, 1}};
  // Keys that are converted on their way have one tile under way: a longer one keeps the memory busy.
  constexpr Shape kDecodeConverted[] = {{16, 128, 1, 4, 1}};
  // 32 rows a warp halve what mma reads of shared memory, where the accumulators leave room for them.
  constexpr Shape kPrefill[] = {{128, 64, 4, 1, 2}, {128, 32, 4, 1, 2}, {128, 32, 4, 1, 1}, {128, 16, 4, 1, 1}};
  constexpr Shape kWide[] = {{128, 64, 8, 1, 2}, {128, 32, 8, 1, 2}, {128, 16, 8, 1, 2}, {128, 32, 8, 1, 1}, {128, 16, 8, 1, 1}};
  constexpr Shape kShort[] = {{64, 64, 4, 1, 2}, {64, 32, 4, 1, 2}, {64, 64, 4, 1, 1},
                              {64, 32, 4, 1, 1}, {64, 16, 4, 1, 2}, {64, 16, 4, 1, 1}};

  // 32 rows of 128 columns and 64 keys leave no registers for what is done to single logits.
  const bool touches_logits = c.soft_cap || c.alibi || c.custom_mask;
  /// The first shape of which `blocks` share a multiprocessor. Room is left for RoPE and scales, which a call may have.
  const auto choose = [&](const auto& shapes, int blocks) {
    for (const Shape& s : shapes) {
      if (!copies_async && s.num_stages > 1) continue;
      AttentionConfig with = c;
      with.q_tile = s.q_tile, with.kv_tile = s.kv_tile, with.warps_q = s.warps_q, with.warps_kv = s.warps_kv,
      with.num_stages = s.num_stages;
      if (touches_logits && rows_per_warp(with) * (padded(with.vo_tile) + keys_per_warp(with)) > 32 * 160) continue;
      with.rope = true;
      if (why_invalid(with, device) || workers_per_sm(with, device) < blocks) continue;
      if (is_float8(with.kv) && why_invalid(with_scales(with, true, true, device), device)) continue;
      with.rope = p.flags.rope;
      c = with;
      return true;
    }
    return false;
  };
  // Two blocks hide each other's waits; eight warps are two blocks' worth already.
  if (c.q_tile == 16 && converts_kv(c) && choose(kDecodeConverted, 2)) return c;
  if (c.q_tile == 16 && (choose(kDecode, 2) || choose(kDecode, 1))) return c;
  if (c.q_tile == 128 && ((takes_32_rows && choose(kPrefill, 2)) || choose(kWide, 1))) return c;
  if (choose(kShort, 2) || choose(kShort, 1)) return c;
  if (choose(kDecode, 1)) return c;
  return c;
}

/// Calls visit(config) for the kernels that most models need, to precompile them.
template <class Visit>
constexpr void for_each_tuned_attention(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  const auto tuned = [&](AttentionProblem p) {
    for (int32_t qo_len : {1, 8, 512}) {
      p.max_qo_len = qo_len;
      visit(tune(p, device));
    }
  };
  for (DType dtype : {DType::bf16, DType::f16}) {
    for (int32_t causal : {0, 1}) tuned({.q = dtype, .kv = dtype, .out = dtype, .causal = causal});
    tuned({.q = dtype, .kv = dtype, .out = dtype, .page_size = 0, .causal = 1});
  }
  for (int32_t head_dim : {64, 96, 256}) tuned({.head_dim_qk = head_dim, .head_dim_vo = head_dim, .causal = 1});
  tuned({.head_dim_qk = 192, .page_size = 0, .causal = 1});
  tuned({.kv = DType::e4m3, .causal = 1});
  for (int32_t qo_len : {1, 8, 512}) {
    const AttentionConfig c = tune({.kv = DType::e4m3, .causal = 1, .max_qo_len = qo_len}, device);
    visit(with_scales(c, true, false, device));
    visit(with_scales(c, false, true, device));
  }
  tuned({.causal = 1, .window_left = 128, .flags = {.sinks = true}});
  tuned({.causal = 1, .flags = {.soft_cap = true}});
  tuned({.flags = {.custom_mask = true}});
}

}  // namespace flashinfer::gpu
