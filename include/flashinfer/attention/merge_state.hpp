// merge_state, merge_state_in_place, merge_states: attention over a union of key sets, from attention over each of them.
//
//   s = log2(sum_i 2^(s_i)),  v = sum_i 2^(s_i - s) v_i        s: base-2 logarithm of the sum of exponentials
//
// An empty set has s = -inf, and its v is not looked at; a union of empty sets has v = 0, s = -inf.
//   v  [num_tokens, num_heads, head_dim]   f32, f16 or bf16; any strides but a dense last dimension
//   s  [num_tokens, num_heads]             f32, any strides
#pragma once

#include <string>

#include <flashinfer/attention/cpu/merge_state.hpp>
#include <flashinfer/attention/gpu/merge_state.hpp>
#include <flashinfer/core/check.hpp>
#include <flashinfer/core/rows_of.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer {

namespace detail {

inline void check_merged(const Check& check, const char* name, const TensorView& v) {
  check.dtype(name, v, {DType::f32, DType::f16, DType::bf16});
  check.inner_stride(name, v);
}

/// What is written: v_out and s_out, s_out may be empty.
inline MergeStateParams merge_state_params(const Check& check, const char* v_name, const TensorView& v_out, const char* s_name,
                                           const TensorView& s_out, const Context& context) {
  check.rank(v_name, v_out, 3);
  check_merged(check, v_name, v_out);
  check.writable(v_name, v_out);
  check.device(v_name, v_out, context.device);
  check.that(v_out.size(0) * v_out.size(1) <= INT32_MAX, v_name, "fewer than 2^31 rows of heads",
             [&] { return "shape " + shape_of(v_out); });
  MergeStateParams params;
  params.v_out = v_out.data;
  params.v_out_stride_token = v_out.stride(0), params.v_out_stride_head = v_out.stride(1);
  if (s_out) {
    check.shape(s_name, s_out, {{"num_tokens", v_out.size(0)}, {"num_heads", v_out.size(1)}});
    check.dtype(s_name, s_out, DType::f32);
    check.writable(s_name, s_out);
    check.device(s_name, s_out, context.device);
    params.s_out = s_out.as<float>();
    params.s_out_stride_token = s_out.stride(0), params.s_out_stride_head = s_out.stride(1);
  }
  params.num_tokens = int32_t(v_out.size(0));
  params.num_heads = int32_t(v_out.size(1));
  return params;
}

/// One of the two states of merge_state. Each may be the output itself: rows are read before they are written.
inline States merge_operand(const Check& check, const char* v_name, const TensorView& v, const char* s_name, const TensorView& s,
                            const TensorView& v_out, const TensorView& s_out, const Context& context) {
  check.same_shape(v_name, v, "v", v_out);
  check.dtype(v_name, v, v_out.dtype);
  check.inner_stride(v_name, v);
  check.device(v_name, v, context.device);
  check.shape(s_name, s, {{"num_tokens", v_out.size(0)}, {"num_heads", v_out.size(1)}});
  check.dtype(s_name, s, DType::f32);
  check.device(s_name, s, context.device);
  check.that(same_memory(v, v_out) || !overlap(v, v_out), v_name, "the output itself or memory apart from it",
             "a part of the output's memory");
  check.that(!s_out || same_memory(s, s_out) || !overlap(s, s_out), s_name, "the output itself or memory apart from it",
             "a part of the output's memory");
  return {v.data, s.as<const float>(), 0, v.stride(0), v.stride(1), 0, s.stride(0), s.stride(1)};
}

inline void run_merge_state(const MergeStateParams& params, DType dtype, int64_t head_dim, const TensorView& v_a, const TensorView& v_b,
                            const TensorView& v_out, const Context& context) {
  if (params.num_tokens == 0 || params.num_heads == 0) return;
  if (context.device.type == DeviceType::cpu) return cpu::merge_state(params, dtype, head_dim);
  int vec = 16 / size_of(dtype);
  for (const TensorView& t : {v_a, v_b, v_out}) vec = aligned_width(vec, t);
  gpu::merge_state(params, {dtype, int(head_dim), vec, params.num_states}, context);
}

}  // namespace detail

/// (v_out, s_out) = (v_a, s_a) merged with (v_b, s_b). Either operand may be the output itself; s_out may be empty.
inline void merge_state(const TensorView& v_a, const TensorView& s_a, const TensorView& v_b, const TensorView& s_b, const TensorView& v_out,
                        const TensorView& s_out, const Context& context = {}) {
  const Check check("merge_state");
  detail::check_merged(check, "v_a", v_a);
  MergeStateParams params = detail::merge_state_params(check, "v", v_out, "s", s_out, context);
  params.first = detail::merge_operand(check, "v_a", v_a, "s_a", s_a, v_out, s_out, context);
  params.rest = detail::merge_operand(check, "v_b", v_b, "s_b", s_b, v_out, s_out, context);
  detail::run_merge_state(params, v_out.dtype, v_out.size(2), v_a, v_b, v_out, context);
}

/// (v, s) = (v, s) merged with (v_other, s_other), for tokens whose mask is not 0.
///   mask  [num_tokens]  boolean or u8, contiguous; empty: all tokens
inline void merge_state_in_place(const TensorView& v, const TensorView& s, const TensorView& v_other, const TensorView& s_other,
                                 const TensorView& mask = {}, const Context& context = {}) {
  const Check check("merge_state_in_place");
  check.that(bool(s), "s", "a tensor", "none");
  MergeStateParams params = detail::merge_state_params(check, "v", v, "s", s, context);
  params.first = detail::merge_operand(check, "v", v, "s", s, v, s, context);
  params.rest = detail::merge_operand(check, "v_other", v_other, "s_other", s_other, v, s, context);
  if (mask) {
    check.shape("mask", mask, {{"num_tokens", v.size(0)}});
    check.dtype("mask", mask, {DType::boolean, DType::u8});
    check.contiguous("mask", mask);
    check.device("mask", mask, context.device);
    params.mask = mask.as<const uint8_t>();
  }
  detail::run_merge_state(params, v.dtype, v.size(2), v, v_other, v, context);
}

/// (v_out, s_out) = all states of each token merged, in their order; no states: v = 0, s = -inf.
///   v  [num_tokens, num_states, num_heads, head_dim], s [num_tokens, num_states, num_heads]
inline void merge_states(const TensorView& v, const TensorView& s, const TensorView& v_out, const TensorView& s_out,
                         const Context& context = {}) {
  const Check check("merge_states");
  check.rank("v", v, 4);
  detail::check_merged(check, "v", v);
  MergeStateParams params = detail::merge_state_params(check, "v_merged", v_out, "s_merged", s_out, context);
  check.shape("v", v, {{"num_tokens", v_out.size(0)}, {"num_states"}, {"num_heads", v_out.size(1)}, {"head_dim", v_out.size(2)}});
  check.dtype("v", v, v_out.dtype);
  check.device("v", v, context.device);
  check.shape("s", s, {{"num_tokens", v_out.size(0)}, {"num_states", v.size(1)}, {"num_heads", v_out.size(1)}});
  check.dtype("s", s, DType::f32);
  check.device("s", s, context.device);
  check.that(!overlap(v, v_out), "v_merged", "memory of its own", "memory that v lies in");
  check.that(!s_out || !overlap(s, s_out), "s_merged", "memory of its own", "memory that s lies in");
  check.that(v.size(1) <= INT32_MAX, "v", "fewer than 2^31 states", [&] { return "shape " + shape_of(v); });

  params.first = {v.data, s.as<const float>(), v.stride(1), v.stride(0), v.stride(2), s.stride(1), s.stride(0), s.stride(2)};
  params.rest = params.first;
  if (v.size(1) > 1 && v.numel() > 0) {
    params.rest.v = v.as<char>() + v.stride(1) * size_of(v.dtype);
    params.rest.s += s.stride(1);
  }
  params.num_states = int32_t(v.size(1));
  detail::run_merge_state(params, v.dtype, v_out.size(2), v, v, v_out, context);
}

}  // namespace flashinfer
