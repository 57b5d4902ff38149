// RoPE, rotary position embedding, of queries and keys: angles from offsets, from positions, or from a table of sines.
//
//   (x_a, x_b) -> (x_a cos - x_b sin, x_b cos + x_a sin)    angle of pair i: position * frequency(i)
//   frequency(i) = rope_theta^(-2i / rotary_dim) / rope_scale; pair i is (i, i + rotary_dim / 2), or (2i, 2i + 1) if interleaved
//
// Dimensions from rotary_dim on are copied. An output may be its input: that is what the _inplace functions do.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include <flashinfer/core/check.hpp>
#include <flashinfer/core/rows_of.hpp>
#include <flashinfer/rope/cpu/rope.hpp>
#include <flashinfer/rope/gpu/rope.hpp>
#include <flashinfer/runtime/check_indptr.hpp>

namespace flashinfer {

struct RopeOptions {
  int64_t rotary_dim = 0;  // even, at most head_dim and kMaxRotaryDim; 0: head_dim
  bool interleave = false;
  double rope_scale = 1.0, rope_theta = 1e4;
  // Llama 3.1: wavelengths above old_context_len / low_freq_factor are scaled, those below old_context_len / high_freq_factor
  // are not, and those between partly.
  bool llama31 = false;
  double low_freq_factor = 1.0, high_freq_factor = 4.0, old_context_len = 8192.0;

  friend bool operator==(const RopeOptions&, const RopeOptions&) = default;
};

/// The defaults of Llama 3.1.
inline RopeOptions llama31_rope_options() {
  RopeOptions options;
  options.rope_scale = 8.0, options.rope_theta = 5e5, options.llama31 = true;
  return options;
}

/// Frequency of pair i in turns of 2^64 a position.
inline uint64_t rope_frequency(const RopeOptions& options, int64_t rotary_dim, int64_t i) {
  constexpr double kTwoPi = 6.283185307179586476925;
  double frequency = std::pow(options.rope_theta, -2.0 * double(i) / double(rotary_dim));
  double scaled = frequency / options.rope_scale;
  if (options.llama31) {
    const double turns = options.old_context_len * frequency / kTwoPi;
    const double kept = clamp((turns - options.low_freq_factor) / (options.high_freq_factor - options.low_freq_factor), 0.0, 1.0);
    scaled += kept * (frequency - scaled);
  }
  const double turns = scaled / kTwoPi;
  return uint64_t((turns - std::floor(turns)) * 0x1p64);
}

namespace detail {

inline RopeTensor rope_tensor(const TensorView& in, const TensorView& out) {
  return {in.data, out.data, in.stride(0), in.stride(1), out.stride(0), out.stride(1), int32_t(in.size(1))};
}

/// What the caller's function and its arguments are called. In place, the outputs are q and k.
struct RopeNames {
  const char* op;
  const char *q = "q", *k = "k", *q_out = "q_out", *k_out = "k_out";
};

inline void check_rope_output(const Check& check, const char* name, const TensorView& out, const char* in_name, const TensorView& in,
                              const Context& context) {
  check.same_shape(name, out, in_name, in);
  check.dtype(name, out, in.dtype);
  check.inner_stride(name, out);
  check.writable(name, out);
  check.device(name, out, context.device);
  check.that(
      same_memory(in, out) || !overlap(in, out), name, [&] { return std::string(in_name) + " itself or memory of its own"; },
      [&] { return std::string("a part of the memory of ") + in_name; });
}

/// What all forms have in common.
inline RopeFrequencyParams rope_params(const RopeNames& names, const TensorView& q, const TensorView& k, const TensorView& q_out,
                                       const TensorView& k_out, int64_t rotary_dim, const Context& context) {
  const Check check(names.op);
  for (const auto& [name, x] : {std::pair<const char*, const TensorView&>{names.q, q}, {names.k, k}}) {
    check.rank(name, x, 3);
    check.dtype(name, x, {DType::f16, DType::bf16, DType::f32});
    check.inner_stride(name, x);
    check.device(name, x, context.device);
  }
  check.shape(names.k, k, {{"num_tokens", q.size(0)}, {"num_kv_heads"}, {"head_dim", q.size(2)}});
  check.dtype(names.k, k, q.dtype);
  check.in_range("rotary_dim", rotary_dim, int64_t(2), min(q.size(2), int64_t(kMaxRotaryDim)));
  check.that(rotary_dim % 2 == 0, "rotary_dim", "an even number", [&] { return std::to_string(rotary_dim); });
  check.that(q.size(0) <= INT32_MAX && q.size(1) + k.size(1) <= INT32_MAX, names.q, "at most 2^31 - 1 tokens and heads",
             [&] { return shape_of(q); });
  check_rope_output(check, names.q_out, q_out, names.q, q, context);
  check_rope_output(check, names.k_out, k_out, names.k, k, context);

  RopeFrequencyParams params;
  params.q = rope_tensor(q, q_out);
  params.k = rope_tensor(k, k_out);
  params.num_tokens = int32_t(q.size(0));
  return params;
}

inline void set_rope_frequencies(const Check& check, RopeFrequencyParams& params, const RopeOptions& options, int64_t rotary_dim) {
  check.positive("rope_scale", options.rope_scale);
  check.positive("rope_theta", options.rope_theta);
  if (options.llama31) {
    check.positive("old_context_len", options.old_context_len);
    check.that(
        options.high_freq_factor > options.low_freq_factor, "high_freq_factor",
        [&] { return "more than low_freq_factor " + std::to_string(options.low_freq_factor); },
        [&] { return std::to_string(options.high_freq_factor); });
  }
  // A layer after the other asks for the same: the powers are computed once a thread.
  thread_local RopeOptions known_options;
  thread_local int64_t known_dim = 0;
  thread_local uint64_t known[kMaxRotaryDim / 2];
  if (known_dim != rotary_dim || !(known_options == options)) {
    known_dim = rotary_dim, known_options = options;
    for (int64_t i = 0; i < rotary_dim / 2; ++i) known[i] = rope_frequency(options, rotary_dim, i);
  }
  std::copy(known, known + rotary_dim / 2, params.frequency);
}

inline void check_index(const Check& check, const char* name, const TensorView& x, const Context& context) {
  check.rank(name, x, 1);
  check.dtype(name, x, {DType::i32, DType::i64});
  check.contiguous(name, x);
  check.device(name, x, context.device);
}

inline void run_rope(gpu::RopeProblem problem, const RopeFrequencyParams& params, std::initializer_list<TensorView> vectors,
                     const Context& context) {
  if (context.device.type == DeviceType::cpu) {
    const cpu::RopeShape shape{problem.head_dim, problem.rotary_dim / 2, problem.interleave};
    if (problem.dtype == DType::f16)
      cpu::rope<f16>(params, shape, problem.angle, problem.index, problem.cache);
    else if (problem.dtype == DType::bf16)
      cpu::rope<bf16>(params, shape, problem.angle, problem.index, problem.cache);
    else
      cpu::rope<float>(params, shape, problem.angle, problem.index, problem.cache);
    return;
  }
  problem.num_tokens = params.num_tokens;
  problem.vec = 16 / size_of(problem.dtype);
  while (problem.rotary_dim / 2 % problem.vec != 0) problem.vec /= 2;
  for (const TensorView& t : vectors) problem.vec = aligned_width(problem.vec, t);
  gpu::rope(problem, params, context);
}

inline void apply_rope(const RopeNames& names, const TensorView& q, const TensorView& k, const TensorView& indptr,
                       const TensorView& offsets, const TensorView& q_out, const TensorView& k_out, const RopeOptions& options,
                       const Context& context) {
  const Check check(names.op);
  check.rank(names.q, q, 3);
  const int64_t rotary_dim = options.rotary_dim ? options.rotary_dim : q.size(2);
  RopeFrequencyParams params = rope_params(names, q, k, q_out, k_out, rotary_dim, context);
  check_index(check, "indptr", indptr, context);
  check_index(check, "offsets", offsets, context);
  check.shape("indptr", indptr, {{"batch_size + 1", offsets.size(0) + 1}});
  check.dtype("offsets", offsets, indptr.dtype);
  check_indptr(check, "indptr", indptr, context);
  set_rope_frequencies(check, params, options, rotary_dim);
  params.batch_size = int32_t(offsets.size(0));
  params.indptr = indptr.data;
  params.offsets = offsets.data;
  run_rope({q.dtype, int(q.size(2)), int(rotary_dim), options.interleave, RopeAngle::offsets, indptr.dtype}, params, {q, k, q_out, k_out},
           context);
}

inline void apply_rope_pos_ids(const RopeNames& names, const TensorView& q, const TensorView& k, const TensorView& pos_ids,
                               const TensorView& q_out, const TensorView& k_out, const RopeOptions& options, const Context& context) {
  const Check check(names.op);
  check.rank(names.q, q, 3);
  const int64_t rotary_dim = options.rotary_dim ? options.rotary_dim : q.size(2);
  RopeFrequencyParams params = rope_params(names, q, k, q_out, k_out, rotary_dim, context);
  check_index(check, "pos_ids", pos_ids, context);
  check.shape("pos_ids", pos_ids, {{"num_tokens", q.size(0)}});
  set_rope_frequencies(check, params, options, rotary_dim);
  params.positions = pos_ids.data;
  run_rope({q.dtype, int(q.size(2)), int(rotary_dim), options.interleave, RopeAngle::positions, pos_ids.dtype}, params,
           {q, k, q_out, k_out}, context);
}

inline void apply_rope_with_cos_sin_cache(const RopeNames& names, const TensorView& positions, const TensorView& query,
                                          const TensorView& key, const TensorView& cos_sin_cache, const TensorView& query_out,
                                          const TensorView& key_out, bool interleave, const Context& context) {
  const Check check(names.op);
  check.rank(names.q, query, 3);
  check.rank("cos_sin_cache", cos_sin_cache, 2);
  const int64_t rotary_dim = cos_sin_cache.size(1);
  check.that(
      rotary_dim >= 2 && rotary_dim % 2 == 0 && rotary_dim <= min(query.size(2), int64_t(kMaxRotaryDim)), "cos_sin_cache",
      [&] { return "an even width (rotary_dim) of at most head_size=" + std::to_string(query.size(2)) + " and 512"; },
      [&] { return "shape " + shape_of(cos_sin_cache); });
  check.dtype("cos_sin_cache", cos_sin_cache, {DType::f32, DType::f16, DType::bf16});
  check.inner_stride("cos_sin_cache", cos_sin_cache);
  check.device("cos_sin_cache", cos_sin_cache, context.device);
  RopeFrequencyParams params = rope_params(names, query, key, query_out, key_out, rotary_dim, context);
  check_index(check, "positions", positions, context);
  check.shape("positions", positions, {{"num_tokens", query.size(0)}});
  params.positions = positions.data;
  params.cache = cos_sin_cache.data;
  params.cache_stride = cos_sin_cache.stride(0);
  params.cache_len = cos_sin_cache.size(0);

  look_at(positions, context, [&](const auto& position) {
    for (int64_t i = 0; i < positions.size(0); ++i)
      check.that(
          position(i) >= 0 && position(i) < params.cache_len, "positions",
          [&] { return "0 to max_pos - 1 = " + std::to_string(params.cache_len - 1); },
          [&] { return std::to_string(position(i)) + " at " + std::to_string(i); });
  });
  run_rope({query.dtype, int(query.size(2)), int(rotary_dim), interleave, RopeAngle::cache, positions.dtype, cos_sin_cache.dtype}, params,
           {query, key, query_out, key_out, cos_sin_cache}, context);
}

}  // namespace detail

/// Token indptr[r] + i is at position offsets[r] + i of request r. Tokens of no request (behind indptr's last entry) are copied.
///   q, q_out  [num_tokens, num_qo_heads, head_dim]   f16, bf16 or f32; any strides but a dense last dimension
///   k, k_out  [num_tokens, num_kv_heads, head_dim]   the same dtype
///   indptr    [batch_size + 1], offsets [batch_size]  i32 or i64, both alike, contiguous; indptr rises from 0, which is checked
///             where the host can see it
inline void apply_rope(const TensorView& q, const TensorView& k, const TensorView& indptr, const TensorView& offsets,
                       const TensorView& q_out, const TensorView& k_out, const RopeOptions& options = {}, const Context& context = {}) {
  detail::apply_rope({options.llama31 ? "apply_llama31_rope" : "apply_rope"}, q, k, indptr, offsets, q_out, k_out, options, context);
}
/// Into q and k themselves.
inline void apply_rope_inplace(const TensorView& q, const TensorView& k, const TensorView& indptr, const TensorView& offsets,
                               const RopeOptions& options = {}, const Context& context = {}) {
  detail::apply_rope({options.llama31 ? "apply_llama31_rope_inplace" : "apply_rope_inplace", "q", "k", "q", "k"}, q, k, indptr, offsets, q,
                     k, options, context);
}

/// Token t is at position pos_ids[t], of either sign.
///   pos_ids  [num_tokens]  i32 or i64, contiguous; the rest as in apply_rope
inline void apply_rope_pos_ids(const TensorView& q, const TensorView& k, const TensorView& pos_ids, const TensorView& q_out,
                               const TensorView& k_out, const RopeOptions& options = {}, const Context& context = {}) {
  detail::apply_rope_pos_ids({options.llama31 ? "apply_llama31_rope_pos_ids" : "apply_rope_pos_ids"}, q, k, pos_ids, q_out, k_out, options,
                             context);
}
inline void apply_rope_pos_ids_inplace(const TensorView& q, const TensorView& k, const TensorView& pos_ids, const RopeOptions& options = {},
                                       const Context& context = {}) {
  detail::apply_rope_pos_ids({options.llama31 ? "apply_llama31_rope_pos_ids_inplace" : "apply_rope_pos_ids_inplace", "q", "k", "q", "k"}, q,
                             k, pos_ids, q, k, options, context);
}

/// Cosines and sines from a table, whose width is rotary_dim.
///   positions      [num_tokens]           i32 or i64, contiguous, from 0 to max_pos - 1: others are an error where the host can
///                                         see them, and are not rotated on a GPU
///   query, key     as q and k in apply_rope
///   cos_sin_cache  [max_pos, rotary_dim]  f32, f16 or bf16: rotary_dim / 2 cosines, then as many sines; dense rows
inline void apply_rope_with_cos_sin_cache(const TensorView& positions, const TensorView& query, const TensorView& key,
                                          const TensorView& cos_sin_cache, const TensorView& query_out, const TensorView& key_out,
                                          bool interleave = false, const Context& context = {}) {
  detail::apply_rope_with_cos_sin_cache({"apply_rope_with_cos_sin_cache", "query", "key", "query_out", "key_out"}, positions, query, key,
                                        cos_sin_cache, query_out, key_out, interleave, context);
}
inline void apply_rope_with_cos_sin_cache_inplace(const TensorView& positions, const TensorView& query, const TensorView& key,
                                                  const TensorView& cos_sin_cache, bool interleave = false, const Context& context = {}) {
  detail::apply_rope_with_cos_sin_cache({"apply_rope_with_cos_sin_cache_inplace", "query", "key", "query", "key"}, positions, query, key,
                                        cos_sin_cache, query, key, interleave, context);
}

}  // namespace flashinfer
