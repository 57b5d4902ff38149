// Host only. What attention demands of its arguments: the problem when it is planned, the tensors against the plan when it runs.
#pragma once

#include <cmath>
#include <utility>

#include <flashinfer/attention/attention_params.hpp>
#include <flashinfer/core/check.hpp>

namespace flashinfer {

inline constexpr int32_t kMaxHeadDim = 512;

inline void check_problem(const Check& check, const AttentionProblem& p) {
  const auto one_of = [&](const char* argument, DType dtype, std::initializer_list<DType> allowed, const char* expected) {
    for (DType d : allowed)
      if (d == dtype) return;
    check.fail(argument, expected, to_string(dtype));
  };
  one_of("q_data_type", p.q, {DType::f32, DType::f16, DType::bf16, DType::e4m3, DType::e5m2}, "f16, bf16, f32, e4m3 or e5m2");
  one_of("kv_data_type", p.kv, {DType::f32, DType::f16, DType::bf16, DType::e4m3, DType::e5m2}, "f16, bf16, f32, e4m3 or e5m2");
  one_of("o_data_type", p.out, {DType::f32, DType::f16, DType::bf16, DType::e4m3, DType::e5m2}, "f16, bf16, f32, e4m3 or e5m2");
  check.positive("num_qo_heads", p.num_qo_heads);
  check.positive("num_kv_heads", p.num_kv_heads);
  check.that(
      p.num_qo_heads % p.num_kv_heads == 0, "num_qo_heads", [&] { return "a multiple of num_kv_heads=" + std::to_string(p.num_kv_heads); },
      [&] { return std::to_string(p.num_qo_heads); });
  const auto head_dim = [&](const char* argument, int32_t dim) {
    check.that(dim > 0 && dim % 8 == 0 && dim <= kMaxHeadDim, argument, "a multiple of 8 up to 512", [&] { return std::to_string(dim); });
  };
  head_dim("head_dim_qk", p.head_dim_qk);
  head_dim("head_dim_vo", p.head_dim_vo);
  check.that(p.page_size >= 0, "page_size", "at least 1, or 0 for ragged keys", [&] { return std::to_string(p.page_size); });
  check.that(p.window_left >= -1, "window_left", "-1 (off) or more", [&] { return std::to_string(p.window_left); });
  check.that(p.max_qo_len >= 0, "max_qo_len", "0 (unknown) or more", [&] { return std::to_string(p.max_qo_len); });
  check.that(p.cut_len >= 0, "cut_len", "0 (never cut) or more", [&] { return std::to_string(p.cut_len); });
}

inline void check_variant(const Check& check, const VariantParams& v) {
  const auto finite = [&](const char* argument, float x) {
    check.that(std::isfinite(x), argument, "a finite number", [&] { return std::to_string(x); });
  };
  finite("sm_scale", v.sm_scale);
  finite("logits_soft_cap", v.soft_cap);
  check.that(std::isfinite(v.rope_rcp_scale) && v.rope_rcp_scale > 0, "rope_scale", "a positive number",
             [&] { return std::to_string(1.0f / v.rope_rcp_scale); });
  finite("rope_theta", v.rope_log2_theta);
}

/// An output that the caller gave. The texts are FlashInfer's, which callers match.
inline void check_output(const Check& check, const char* argument, const TensorView& t, std::initializer_list<int64_t> shape, DType dtype,
                         Device device) {
  const auto refuse = [&](const char* what, const std::string& expected, const std::string& given) {
    throw InvalidArgument(check.op, argument,
                          std::string("Invalid ") + what + " of " + argument + ": expected " + expected + ", got " + given);
  };
  bool same = t.ndim == int(shape.size());
  int i = 0;
  for (int64_t extent : shape) same = same && t.shape[i++] == extent;
  if (!same) [[unlikely]]
    refuse("shape", list_of(shape.begin(), int(shape.size())), shape_of(t));
  if (t.dtype != dtype) [[unlikely]]
    refuse("dtype", to_string(dtype), to_string(t.dtype));
  if (!(t.device == device)) [[unlikely]]
    refuse("device", to_string(device), to_string(t.device));
  check.writable(argument, t);
}

/// A tensor of the dtype that was planned, again in FlashInfer's words.
inline void check_planned_dtype(const Check& check, const char* argument, const TensorView& t, const char* planned_as, DType planned) {
  if (t.dtype == planned) [[likely]]
    return;
  throw InvalidArgument(check.op, argument,
                        std::string("The dtype of ") + argument + " " + to_string(t.dtype) + " does not match the " + planned_as + " " +
                            to_string(planned) + " specified in plan function.");
}

/// Keys or values: [num_pages, page_size, num_kv_heads, head_dim], or [num_tokens, num_kv_heads, head_dim] when ragged.
inline void check_cache(const Check& check, const char* argument, const TensorView& t, const AttentionProblem& p, int32_t head_dim,
                        Device device) {
  if (p.page_size) {
    check.shape(argument, t, {{"num_pages"}, {"page_size", p.page_size}, {"num_kv_heads", p.num_kv_heads}, {"head_dim", head_dim}});
  } else {
    check.shape(argument, t, {{"num_tokens"}, {"num_kv_heads", p.num_kv_heads}, {"head_dim", head_dim}});
  }
  check_planned_dtype(check, argument, t, "kv_data_type", p.kv);
  check.device(argument, t, device);
  check.inner_stride(argument, t);
  check.that(t.size(0) <= INT32_MAX, argument, "fewer than 2^31 pages or tokens", [&] { return "shape " + shape_of(t); });
}

/// Work items of one launch read while others write: what is written may not share memory with anything.
inline void check_apart(const Check& check, const char* argument, const TensorView& written, const char* other_argument,
                        const TensorView& other) {
  check.that(!overlap(written, other), argument, "memory of its own",
             [&] { return std::string("memory that ") + other_argument + " lies in"; });
}

/// Scales that lie in memory: of heads, one for each or one for all; for k and v also of tokens and heads, [num_pages, page_size,
/// num_kv_heads] or [num_tokens, num_kv_heads] beside the cache.
inline AttentionScales check_scales(const Check& check, const AttentionProblem& p, int64_t num_pages, const TensorView& q_scale,
                                    const TensorView& k_scale, const TensorView& v_scale, Device device) {
  AttentionScales scales;
  const auto stride = [](const TensorView& t, int dim) { return t.size(dim) > 1 ? t.stride(dim) : 0; };
  const auto of_heads = [&](const char* argument, const TensorView& t, int32_t num_heads, const char* heads, const float*& data,
                            int64_t& head) {
    check.that(
        t.numel() == 1 || (t.ndim == 1 && t.size(0) == num_heads), argument,
        [&] { return std::string("one scale, or shape [") + heads + "=" + std::to_string(num_heads) + "]"; },
        [&] { return "shape " + shape_of(t); });
    data = t.as<const float>();
    head = t.numel() > 1 ? t.stride(0) : 0;
  };
  const auto of_cache = [&](const char* argument, const TensorView& t, const float*& of_head, int64_t& of_head_stride, const float*& data,
                            int64_t& page, int64_t& token, int64_t& head) {
    if (t.ndim < 2 || t.numel() == 1) return of_heads(argument, t, p.num_kv_heads, "num_kv_heads", of_head, of_head_stride);
    if (p.page_size) {
      check.shape(argument, t, {{"num_pages", num_pages}, {"page_size", p.page_size}, {"num_kv_heads", p.num_kv_heads}});
      page = stride(t, 0), token = stride(t, 1);
    } else {
      check.shape(argument, t, {{"num_tokens", num_pages}, {"num_kv_heads", p.num_kv_heads}});
      page = stride(t, 0);
    }
    head = stride(t, t.ndim - 1);
    data = t.as<const float>();
    if (!is_float8(p.kv))
      throw Unsupported(std::string(check.op) + ": " + argument + ": scales of tokens are for e4m3 and e5m2 caches, this one is " +
                        to_string(p.kv));
  };
  for (const auto& [argument, t] :
       {std::pair<const char*, const TensorView&>{"q_scale", q_scale}, {"k_scale", k_scale}, {"v_scale", v_scale}})
    if (t) check.dtype(argument, t, DType::f32), check.device(argument, t, device);
  AttentionScales& s = scales;
  if (q_scale) of_heads("q_scale", q_scale, p.num_qo_heads, "num_qo_heads", s.q_head, s.q_head_stride);
  if (k_scale) of_cache("k_scale", k_scale, s.k_head, s.k_head_stride, s.k, s.k_stride_page, s.k_stride_token, s.k_stride_head);
  if (v_scale) of_cache("v_scale", v_scale, s.v_head, s.v_head_stride, s.v, s.v_stride_page, s.v_stride_token, s.v_stride_head);
  return scales;
}

}  // namespace flashinfer
