// What the host and device halves of attention share: the config of a kernel and its by-value parameters.
#pragma once

#include <flashinfer/attention/attention_plan.hpp>
#include <flashinfer/attention/variant.hpp>
#include <flashinfer/core/dtype.hpp>

namespace flashinfer {

/// Keys and values of all requests, in pages or ragged. Strides are in elements, all free but the innermost, which is 1.
///   paged:  token j of request r is row j % page_size of page indices[indptr[r] + j / page_size]
///   ragged: token j of request r is row indptr[r] + j (page_size 0, stride_page unused)
struct KvView {
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t k_stride_page = 0, k_stride_token = 0, k_stride_head = 0;
  int64_t v_stride_page = 0, v_stride_token = 0, v_stride_head = 0;
  const int32_t* indices = nullptr;  // [num_indices]
  int32_t num_indices = 0;           // entries past it are never read, whatever indptr says
  int32_t num_pages = 0;             // paged: pages of the pool, ragged: tokens; ids outside are taken as 0, never dereferenced
};

/// What a quantised cache is multiplied by, in the memory of the op's device; null pointers stand for ones. (Numbers need no memory: they
/// are folded into sm_scale and out_scale.) Strides are in elements.
struct AttentionScales {
  // Of heads: the scores of a row times those of its query head and of its key head, its output times that of the values' head.
  const float *q_head = nullptr, *k_head = nullptr, *v_head = nullptr;
  int64_t q_head_stride = 0, k_head_stride = 0, v_head_stride = 0;  // 0: one scale for all heads
  // Of tokens and heads, found as the rows of the cache are: the score of a key times its own, the value's row times its own. Ragged
  // tokens are pages of one row.
  const float *k = nullptr, *v = nullptr;
  int64_t k_stride_page = 0, k_stride_token = 0, k_stride_head = 0;
  int64_t v_stride_page = 0, v_stride_token = 0, v_stride_head = 0;

  FLASHINFER_HOST_DEVICE float of_scores(int32_t qo_head, int32_t kv_head) const {
    return (q_head ? q_head[qo_head * q_head_stride] : 1.0f) * (k_head ? k_head[kv_head * k_head_stride] : 1.0f);
  }
  FLASHINFER_HOST_DEVICE float of_output(int32_t kv_head) const { return v_head ? v_head[kv_head * v_head_stride] : 1.0f; }
  /// Of the token in a row of a page; of a token and 0 when ragged.
  FLASHINFER_HOST_DEVICE float of_key(int64_t page, int32_t row, int32_t kv_head) const {
    return k ? k[page * k_stride_page + row * k_stride_token + kv_head * k_stride_head] : 1.0f;
  }
  FLASHINFER_HOST_DEVICE float of_value(int64_t page, int32_t row, int32_t kv_head) const {
    return v ? v[page * v_stride_page + row * v_stride_token + kv_head * v_stride_head] : 1.0f;
  }
  FLASHINFER_HOST_DEVICE bool any_of_heads() const { return q_head || k_head || v_head; }
  FLASHINFER_HOST_DEVICE bool any_of_tokens() const { return k || v; }
};

/// The by-value argument of every attention kernel, Hopper's included.
struct AttentionParams {
  AttentionPlan plan;  // device pointers to lengths, worker starts, counters
  KvView kv;
  const void* q = nullptr;  // [total_qo_len, num_qo_heads, head_dim_qk]
  void* out = nullptr;      // [total_qo_len, num_qo_heads, head_dim_vo]
  float* lse = nullptr;     // [total_qo_len, num_qo_heads], or null
  int64_t q_stride_token = 0, q_stride_head = 0;
  int64_t out_stride_token = 0, out_stride_head = 0;
  int64_t lse_stride_token = 0, lse_stride_head = 0;
  int32_t total_qo_len = 0;  // rows of q: rows past it are never touched, whatever qo_indptr says
  float out_scale = 1.0f;    // v_scale of a quantised cache
  float lse_factor = 1.0f;   // 1: base 2 (FlashInfer's Python API); ln 2: natural
  VariantParams variant;
  AttentionScales scales;
};

/// Which of the GPU's kernels runs a problem: the one that gpu::choose_backend() takes for it, or the caller's.
enum class AttentionBackend : int32_t { automatic, generic, decode };
constexpr const char* name_of(AttentionBackend backend) {
  return backend == AttentionBackend::automatic ? "auto" : backend == AttentionBackend::generic ? "generic" : "decode";
}

/// What planning and tuning know of a batch before its lengths: two calls of one problem run the same kernel.
struct AttentionProblem {
  DType q = DType::bf16, kv = DType::bf16, out = DType::bf16;
  int32_t num_qo_heads = 32, num_kv_heads = 8;
  int32_t head_dim_qk = 128, head_dim_vo = 128;
  int32_t page_size = 16;  // 0: ragged
  int32_t causal = 0;
  int32_t window_left = -1;
  int32_t max_qo_len = 1;  // longest (or typical) query run of one request; only the choice of q_tile depends on it
  int32_t batch_invariant = 0;
  int32_t cut_len = 0;  // batch-invariant: keys per partial result, a multiple of 64 (rounded up); 0: never cut
  VariantFlags flags = {};
  AttentionBackend backend = AttentionBackend::automatic;
};

/// Compile-time choices of the generic kernel (gpu/attention_kernel.cuh).
struct AttentionConfig {
  DType q = DType::bf16, kv = DType::bf16, out = DType::bf16;
  int head_dim_qk = 128, head_dim_vo = 128;  // any multiple of 8 up to 512; the kernel pads its tiles to multiples of 16
  int q_tile = 64;                           // packed rows (token-major, head-minor) of one kv head per work item
  int kv_tile = 64;                          // keys per step
  int vo_tile = 128;                         // columns of the output per work item: head_dim_vo, or a part of it where registers end
  int warps_q = 4, warps_kv = 1;             // warps along the rows, along the keys
  int num_stages = 2;
  bool paged = true;
  bool limits = true;  // causal or sliding window: tiles at the edge of kv_range are masked
  bool soft_cap = false, alibi = false, custom_mask = false, sinks = false, rope = false;
  bool head_scales = false, token_scales = false;  // has AttentionScales of heads, of tokens (of an FP8 cache)

  static constexpr const char* kName = "AttentionConfig";
  static constexpr const char* kKernel = "AttentionKernel";
  static constexpr const char* kHeader = "attention/gpu/attention_kernel.cuh";
  template <class F>
  FLASHINFER_HOST_DEVICE constexpr void for_each_field(F&& f) const {
    f("q", q), f("kv", kv), f("out", out), f("head_dim_qk", head_dim_qk), f("head_dim_vo", head_dim_vo), f("q_tile", q_tile),
        f("kv_tile", kv_tile), f("vo_tile", vo_tile), f("warps_q", warps_q), f("warps_kv", warps_kv), f("num_stages", num_stages),
        f("paged", paged), f("limits", limits), f("soft_cap", soft_cap), f("alibi", alibi), f("custom_mask", custom_mask),
        f("sinks", sinks), f("rope", rope), f("head_scales", head_scales), f("token_scales", token_scales);
  }
  constexpr VariantFlags variant_flags() const { return {soft_cap, alibi, custom_mask, sinks, rope}; }
};

}  // namespace flashinfer
