// RoPE, bound under FlashInfer's names and argument orders.
#include <bindings/module.hpp>
#include <bindings/xla_ffi.hpp>
#include <flashinfer/rope/rope.hpp>

#include <nanobind/stl/pair.h>

namespace flashinfer::bindings {
namespace {

using TensorPair = std::pair<Tensor, Tensor>;

/// The options of one call. rope_scale and rope_theta are the caller's; low_freq_factor and what follows are Llama 3.1's.
RopeOptions options_of(const char* op, std::optional<int64_t> rotary_dim, bool interleave, double rope_scale, double rope_theta) {
  RopeOptions options;
  if (rotary_dim) Check(op).positive("rotary_dim", *rotary_dim);
  options.rotary_dim = rotary_dim.value_or(0), options.interleave = interleave;
  options.rope_scale = rope_scale, options.rope_theta = rope_theta;
  return options;
}
RopeOptions llama31(RopeOptions options, double low_freq_factor, double high_freq_factor, double old_context_len) {
  options.llama31 = true;
  options.low_freq_factor = low_freq_factor, options.high_freq_factor = high_freq_factor, options.old_context_len = old_context_len;
  return options;
}

TensorPair offsets_of(const char* op, const Tensor& q, const Tensor& k, const Tensor& indptr, const Tensor& offsets,
                      const RopeOptions& options) {
  Call call(op);
  const TensorView q_view = call.in("q", q), k_view = call.in("k", k), i = call.in("indptr", indptr), o = call.in("offsets", offsets);
  const Output q_out = call.out("q_rope", {}, q_view), k_out = call.out("k_rope", {}, k_view);
  call.run([&](const Context& context) { flashinfer::apply_rope(q_view, k_view, i, o, q_out.view, k_out.view, options, context); });
  return {q_out.result(), k_out.result()};
}
void offsets_in_place(const char* op, const Tensor& q, const Tensor& k, const Tensor& indptr, const Tensor& offsets,
                      const RopeOptions& options) {
  Call call(op);
  const TensorView q_view = call.out("q", q), k_view = call.out("k", k), i = call.in("indptr", indptr), o = call.in("offsets", offsets);
  call.run([&](const Context& context) { flashinfer::apply_rope_inplace(q_view, k_view, i, o, options, context); });
}
TensorPair pos_ids_of(const char* op, const Tensor& q, const Tensor& k, const Tensor& pos_ids, const RopeOptions& options) {
  Call call(op);
  const TensorView q_view = call.in("q", q), k_view = call.in("k", k), p = call.in("pos_ids", pos_ids);
  const Output q_out = call.out("q_rope", {}, q_view), k_out = call.out("k_rope", {}, k_view);
  call.run([&](const Context& context) { flashinfer::apply_rope_pos_ids(q_view, k_view, p, q_out.view, k_out.view, options, context); });
  return {q_out.result(), k_out.result()};
}
void pos_ids_in_place(const char* op, const Tensor& q, const Tensor& k, const Tensor& pos_ids, const RopeOptions& options) {
  Call call(op);
  const TensorView q_view = call.out("q", q), k_view = call.out("k", k), p = call.in("pos_ids", pos_ids);
  call.run([&](const Context& context) { flashinfer::apply_rope_pos_ids_inplace(q_view, k_view, p, options, context); });
}

TensorPair apply_rope(const Tensor& q, const Tensor& k, const Tensor& indptr, const Tensor& offsets, std::optional<int64_t> rotary_dim,
                      bool interleave, double rope_scale, double rope_theta) {
  return offsets_of("apply_rope", q, k, indptr, offsets, options_of("apply_rope", rotary_dim, interleave, rope_scale, rope_theta));
}
void apply_rope_inplace(const Tensor& q, const Tensor& k, const Tensor& indptr, const Tensor& offsets, std::optional<int64_t> rotary_dim,
                        bool interleave, double rope_scale, double rope_theta) {
  offsets_in_place("apply_rope_inplace", q, k, indptr, offsets,
                   options_of("apply_rope_inplace", rotary_dim, interleave, rope_scale, rope_theta));
}
TensorPair apply_rope_pos_ids(const Tensor& q, const Tensor& k, const Tensor& pos_ids, std::optional<int64_t> rotary_dim, bool interleave,
                              double rope_scale, double rope_theta) {
  return pos_ids_of("apply_rope_pos_ids", q, k, pos_ids, options_of("apply_rope_pos_ids", rotary_dim, interleave, rope_scale, rope_theta));
}
void apply_rope_pos_ids_inplace(const Tensor& q, const Tensor& k, const Tensor& pos_ids, std::optional<int64_t> rotary_dim, bool interleave,
                                double rope_scale, double rope_theta) {
  pos_ids_in_place("apply_rope_pos_ids_inplace", q, k, pos_ids,
                   options_of("apply_rope_pos_ids_inplace", rotary_dim, interleave, rope_scale, rope_theta));
}

TensorPair apply_llama31_rope(const Tensor& q, const Tensor& k, const Tensor& indptr, const Tensor& offsets,
                              std::optional<int64_t> rotary_dim, bool interleave, double rope_scale, double rope_theta,
                              double low_freq_factor, double high_freq_factor, double old_context_len) {
  return offsets_of("apply_llama31_rope", q, k, indptr, offsets,
                    llama31(options_of("apply_llama31_rope", rotary_dim, interleave, rope_scale, rope_theta), low_freq_factor,
                            high_freq_factor, old_context_len));
}
void apply_llama31_rope_inplace(const Tensor& q, const Tensor& k, const Tensor& indptr, const Tensor& offsets,
                                std::optional<int64_t> rotary_dim, bool interleave, double rope_scale, double rope_theta,
                                double low_freq_factor, double high_freq_factor, double old_context_len) {
  offsets_in_place("apply_llama31_rope_inplace", q, k, indptr, offsets,
                   llama31(options_of("apply_llama31_rope_inplace", rotary_dim, interleave, rope_scale, rope_theta), low_freq_factor,
                           high_freq_factor, old_context_len));
}
TensorPair apply_llama31_rope_pos_ids(const Tensor& q, const Tensor& k, const Tensor& pos_ids, std::optional<int64_t> rotary_dim,
                                      bool interleave, double rope_scale, double rope_theta, double low_freq_factor,
                                      double high_freq_factor, double old_context_len) {
  return pos_ids_of("apply_llama31_rope_pos_ids", q, k, pos_ids,
                    llama31(options_of("apply_llama31_rope_pos_ids", rotary_dim, interleave, rope_scale, rope_theta), low_freq_factor,
                            high_freq_factor, old_context_len));
}
void apply_llama31_rope_pos_ids_inplace(const Tensor& q, const Tensor& k, const Tensor& pos_ids, std::optional<int64_t> rotary_dim,
                                        bool interleave, double rope_scale, double rope_theta, double low_freq_factor,
                                        double high_freq_factor, double old_context_len) {
  pos_ids_in_place("apply_llama31_rope_pos_ids_inplace", q, k, pos_ids,
                   llama31(options_of("apply_llama31_rope_pos_ids_inplace", rotary_dim, interleave, rope_scale, rope_theta),
                           low_freq_factor, high_freq_factor, old_context_len));
}

/// [num_tokens, num_heads * head_size] as [num_tokens, num_heads, head_size]; what has heads already stays as it is.
TensorView by_heads(const Check& check, const char* argument, TensorView t, int64_t head_size) {
  check.positive("head_size", head_size);
  check.rank(argument, t, 2, 3);
  if (t.ndim == 3) {
    check.shape(argument, t, {{"num_tokens"}, {"num_heads"}, {"head_size", head_size}});
    return t;
  }
  check.that(
      t.shape[1] % head_size == 0, argument, [&] { return "a width that is a multiple of head_size=" + std::to_string(head_size); },
      [&] { return "shape " + shape_of(t); });
  t.shape[2] = head_size, t.strides[2] = t.strides[1];
  t.shape[1] /= head_size, t.strides[1] *= head_size;
  t.ndim = 3;
  return t;
}

void check_cache(const char* op, const TensorView& cache) {
  // C++ takes other dtypes too, but callers of FlashInfer's API match this text.
  if (cache.dtype != DType::f32) throw InvalidArgument(op, "cos_sin_cache", "cos_sin_cache should be float32");
}

TensorPair apply_rope_with_cos_sin_cache(const Tensor& positions, const Tensor& query, const Tensor& key, int64_t head_size,
                                         const Tensor& cos_sin_cache, bool is_neox) {
  Call call("apply_rope_with_cos_sin_cache");
  const Check check("apply_rope_with_cos_sin_cache");
  const TensorView q = call.in("query", query), k = call.in("key", key), p = call.in("positions", positions);
  const TensorView cache = call.in("cos_sin_cache", cos_sin_cache);
  check_cache(check.op, cache);
  const TensorView q_heads = by_heads(check, "query", q, head_size), k_heads = by_heads(check, "key", k, head_size);
  const Output q_out = call.out("query_out", {}, q), k_out = call.out("key_out", {}, k);
  const TensorView q_out_heads = by_heads(check, "query_out", q_out.view, head_size),
                   k_out_heads = by_heads(check, "key_out", k_out.view, head_size);
  call.run([&](const Context& context) {
    flashinfer::apply_rope_with_cos_sin_cache(p, q_heads, k_heads, cache, q_out_heads, k_out_heads, !is_neox, context);
  });
  return {q_out.result(), k_out.result()};
}
void apply_rope_with_cos_sin_cache_inplace(const Tensor& positions, const Tensor& query, const Tensor& key, int64_t head_size,
                                           const Tensor& cos_sin_cache, bool is_neox) {
  Call call("apply_rope_with_cos_sin_cache_inplace");
  const Check check("apply_rope_with_cos_sin_cache_inplace");
  const TensorView q = by_heads(check, "query", call.out("query", query), head_size),
                   k = by_heads(check, "key", call.out("key", key), head_size);
  const TensorView p = call.in("positions", positions), cache = call.in("cos_sin_cache", cos_sin_cache);
  check_cache(check.op, cache);
  call.run([&](const Context& context) { flashinfer::apply_rope_with_cos_sin_cache_inplace(p, q, k, cache, !is_neox, context); });
}

const Family family{[](nb::module_& m) {
  m.def(
      "apply_rope", &apply_rope, "q"_a, "k"_a, "indptr"_a, "offsets"_a, "rotary_dim"_a = nb::none(), "interleave"_a = false,
      "rope_scale"_a = 1.0, "rope_theta"_a = 1e4,
      R"(Rotates pairs of q and k by position * rope_theta^(-2i / rotary_dim) / rope_scale; token indptr[r] + i is at position offsets[r] + i.

q: [num_tokens, num_qo_heads, head_dim], k: [num_tokens, num_kv_heads, head_dim], float16, bfloat16 or float32; all strides but
the innermost are free. indptr: [batch_size + 1], offsets: [batch_size], int32 or int64. Pairs are (i, i + rotary_dim / 2), or
(2i, 2i + 1) if interleave; dimensions from rotary_dim (None: head_dim) on are copied. Angles are exact at any position.)");
  m.def("apply_rope_inplace", &apply_rope_inplace, "q"_a, "k"_a, "indptr"_a, "offsets"_a, "rotary_dim"_a = nb::none(),
        "interleave"_a = false, "rope_scale"_a = 1.0, "rope_theta"_a = 1e4,
        "As apply_rope, written into q and k, which may be slices of one tensor.");
  m.def("apply_rope_pos_ids", &apply_rope_pos_ids, "q"_a, "k"_a, "pos_ids"_a, "rotary_dim"_a = nb::none(), "interleave"_a = false,
        "rope_scale"_a = 1.0, "rope_theta"_a = 1e4,
        "As apply_rope, token t at position pos_ids[t]. pos_ids: [num_tokens], int32 or int64.");
  m.def("apply_rope_pos_ids_inplace", &apply_rope_pos_ids_inplace, "q"_a, "k"_a, "pos_ids"_a, "rotary_dim"_a = nb::none(),
        "interleave"_a = false, "rope_scale"_a = 1.0, "rope_theta"_a = 1e4, "As apply_rope_pos_ids, written into q and k.");
  m.def("apply_llama31_rope", &apply_llama31_rope, "q"_a, "k"_a, "indptr"_a, "offsets"_a, "rotary_dim"_a = nb::none(),
        "interleave"_a = false, "rope_scale"_a = 8.0, "rope_theta"_a = 5e5, "low_freq_factor"_a = 1.0, "high_freq_factor"_a = 4.0,
        "old_context_len"_a = 8192.0,
        R"(As apply_rope, with the frequencies of Llama 3.1.

Wavelengths above old_context_len / low_freq_factor are stretched by rope_scale, those below old_context_len / high_freq_factor are
kept, and those between are blended.)");
  m.def("apply_llama31_rope_inplace", &apply_llama31_rope_inplace, "q"_a, "k"_a, "indptr"_a, "offsets"_a, "rotary_dim"_a = nb::none(),
        "interleave"_a = false, "rope_scale"_a = 8.0, "rope_theta"_a = 5e5, "low_freq_factor"_a = 1.0, "high_freq_factor"_a = 4.0,
        "old_context_len"_a = 8192.0, "As apply_llama31_rope, written into q and k.");
  m.def("apply_llama31_rope_pos_ids", &apply_llama31_rope_pos_ids, "q"_a, "k"_a, "pos_ids"_a, "rotary_dim"_a = nb::none(),
        "interleave"_a = false, "rope_scale"_a = 8.0, "rope_theta"_a = 5e5, "low_freq_factor"_a = 1.0, "high_freq_factor"_a = 4.0,
        "old_context_len"_a = 8192.0, "As apply_llama31_rope, token t at position pos_ids[t].");
  m.def("apply_llama31_rope_pos_ids_inplace", &apply_llama31_rope_pos_ids_inplace, "q"_a, "k"_a, "pos_ids"_a, "rotary_dim"_a = nb::none(),
        "interleave"_a = false, "rope_scale"_a = 8.0, "rope_theta"_a = 5e5, "low_freq_factor"_a = 1.0, "high_freq_factor"_a = 4.0,
        "old_context_len"_a = 8192.0, "As apply_llama31_rope_pos_ids, written into q and k.");
  m.def("apply_rope_with_cos_sin_cache", &apply_rope_with_cos_sin_cache, "positions"_a, "query"_a, "key"_a, "head_size"_a,
        "cos_sin_cache"_a, "is_neox"_a = true,
        R"(RoPE from a table: row p holds the rotary_dim / 2 cosines of position p, then its sines.

positions: [num_tokens], int32 or int64. query: [num_tokens, num_qo_heads * head_size], key: [num_tokens, num_kv_heads * head_size],
float16, bfloat16 or float32. cos_sin_cache: [max_pos, rotary_dim], float32. is_neox: pairs (i, i + rotary_dim / 2), else (2i, 2i + 1).)");
  m.def("apply_rope_with_cos_sin_cache_inplace", &apply_rope_with_cos_sin_cache_inplace, "positions"_a, "query"_a, "key"_a, "head_size"_a,
        "cos_sin_cache"_a, "is_neox"_a = true, "As apply_rope_with_cos_sin_cache, written into query and key.");
}};

const Tuned rope_kernels{"rope", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_rope(arch, add); }};

// Under jax.jit (flashinfer/jax.py).
RopeOptions xla_options(const XlaCall& c) {
  RopeOptions options;
  options.rotary_dim = int64_t(c.number("rotary_dim"));
  options.interleave = c.flag("interleave");
  options.rope_scale = c.number("rope_scale"), options.rope_theta = c.number("rope_theta");
  options.llama31 = c.flag("llama31");
  options.low_freq_factor = c.number("low_freq_factor"), options.high_freq_factor = c.number("high_freq_factor");
  options.old_context_len = c.number("old_context_len");
  return options;
}

const XlaOp apply_rope_op{"apply_rope", [](XlaCall& c) {
                            flashinfer::apply_rope(c.in(0), c.in(1), c.in(2), c.in(3), c.out(0), c.out(1), xla_options(c), c.context());
                          }};
const XlaOp apply_rope_pos_ids_op{
    "apply_rope_pos_ids",
    [](XlaCall& c) { flashinfer::apply_rope_pos_ids(c.in(0), c.in(1), c.in(2), c.out(0), c.out(1), xla_options(c), c.context()); }};
const XlaOp apply_rope_with_cos_sin_cache_op{"apply_rope_with_cos_sin_cache", [](XlaCall& c) {
                                               flashinfer::apply_rope_with_cos_sin_cache(c.in(0), c.in(1), c.in(2), c.in(3), c.out(0),
                                                                                         c.out(1), c.flag("interleave"), c.context());
                                             }};

}  // namespace
}  // namespace flashinfer::bindings
