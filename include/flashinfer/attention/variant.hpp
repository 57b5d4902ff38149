// What may differ between attentions: the logit, the mask, the denominator. A variant is a POD functor passed by value;
// built-in ones and the user's take the same path, on CPU and GPU.
#pragma once

#include <flashinfer/core/math.hpp>

namespace flashinfer {

/// Where one logit stands.
struct LogitPosition {
  int32_t request;
  int32_t qo_idx, qo_len;  // token of the request's queries
  int32_t kv_idx, kv_len;  // token of the request's keys
  int32_t qo_head, kv_head;
};

/// The keys that a query token may see at all: [begin, end). Tiles outside are never loaded, tiles inside need no mask.
struct KvRange {
  int32_t begin, end;
};

/// Arguments of the built-in variants, neutral by default. `user` holds the bytes of a user functor's own parameters.
struct VariantParams {
  float sm_scale = 1.0f;                 // logit = q.k * sm_scale
  float soft_cap = 0.0f;                 // cap * tanh(logit / cap); off when <= 0
  int32_t window_left = -1;              // keys more than window_left before the query's own position are masked; off when < 0
  int32_t causal = 0;                    // key <= kv_len - qo_len + qo_idx (bottom-right aligned)
  int32_t qo_head_offset = 0;            // of this rank's first head, for per-head tables under tensor parallelism
  float rope_rcp_scale = 1.0f;           // RoPE in attention: angle = position * rcp_scale * theta^(-2i/head_dim)
  float rope_log2_theta = 0.0f;          // log2(theta)
  const float* alibi_slopes = nullptr;   // [num_qo_heads]: logit += slope * (kv_idx - qo_idx)
  const uint8_t* custom_mask = nullptr;  // bits, little-endian: request r's [qo_len, kv_len] rows start at byte mask_indptr[r]
  const int32_t* mask_indptr = nullptr;  // [batch_size + 1], bytes; null: one request
  const float* sinks = nullptr;          // [num_qo_heads], natural-log logits of a key without a value
  alignas(8) unsigned char user[96] = {};
};

/// Which built-in steps a kernel contains. What a kernel lacks costs it nothing.
struct VariantFlags {
  bool soft_cap = false;
  bool alibi = false;
  bool custom_mask = false;
  bool sinks = false;
  bool rope = false;
};

/// Everything; each step looks at run time whether it is asked for. The CPU twin's default.
inline constexpr VariantFlags kAllVariants = {true, true, true, true, true};

FLASHINFER_HOST_DEVICE float soft_cap_tanh(float x) {
#if defined(__CUDACC__)
  return tanhf(x);
#else
  return __builtin_tanhf(x);
#endif
}

/// The steps in the order FlashInfer documents: scale, ALiBi, soft cap, mask; natural-log logits throughout.
/// soft cap: cap * tanh(x / cap); ALiBi: x + slope * (kv_idx - qo_idx).
template <VariantFlags kFlags>
struct BuiltinVariant {
  static constexpr VariantFlags flags = kFlags;
  /// Does logit() change anything; does visible() hide anything inside kv_range().
  static constexpr bool kTransformsLogits = kFlags.soft_cap || kFlags.alibi;
  static constexpr bool kMasks = kFlags.custom_mask;

  FLASHINFER_HOST_DEVICE static float logit(const VariantParams& p, float x, const LogitPosition& at) {
    if constexpr (kFlags.alibi) {
      if (p.alibi_slopes) x += p.alibi_slopes[p.qo_head_offset + at.qo_head] * float(at.kv_idx - at.qo_idx);
    }
    if constexpr (kFlags.soft_cap) {
      if (p.soft_cap > 0.0f) x = p.soft_cap * soft_cap_tanh(x / p.soft_cap);
    }
    return x;
  }

  FLASHINFER_HOST_DEVICE static bool visible(const VariantParams& p, const LogitPosition& at) {
    if constexpr (kFlags.custom_mask) {
      if (p.custom_mask) {
        const uint8_t* bits = p.custom_mask + (p.mask_indptr ? p.mask_indptr[at.request] : 0);
        const int64_t bit = int64_t(at.qo_idx) * at.kv_len + at.kv_idx;
        return (bits[bit >> 3] >> (bit & 7)) & 1;
      }
    }
    return true;
  }

  /// Natural-log logit that joins the softmax's denominator only; -inf for none.
  FLASHINFER_HOST_DEVICE static float sink(const VariantParams& p, int32_t qo_head) {
    if constexpr (kFlags.sinks) {
      if (p.sinks) return p.sinks[p.qo_head_offset + qo_head];
    }
    return -kInfinity;
  }
};

/// A user's functor has the same static members as BuiltinVariant.
template <class V>
concept AttentionVariant = requires(const VariantParams& p, float x, const LogitPosition& at) {
  { V::logit(p, x, at) } -> same_as<float>;
  { V::visible(p, at) } -> same_as<bool>;
  { V::sink(p, 0) } -> same_as<float>;
  { V::kTransformsLogits } -> same_as<const bool&>;
  { V::kMasks } -> same_as<const bool&>;
};

/// Keys that query token qo_idx may see under causal and sliding-window masks. A custom mask replaces causal, as in FlashInfer.
FLASHINFER_HOST_DEVICE KvRange kv_range(int32_t causal, int32_t window_left, int32_t qo_idx, int32_t qo_len, int32_t kv_len) {
  const int32_t position = kv_len - qo_len + qo_idx;
  const int32_t end = causal ? clamp(position + 1, int32_t(0), kv_len) : kv_len;
  const int32_t begin = window_left >= 0 ? clamp(position - window_left, int32_t(0), end) : 0;
  return {begin, end};
}

}  // namespace flashinfer
