// The page ops, bound under FlashInfer's names and argument orders.
#include <bindings/module.hpp>
#include <bindings/xla_ffi.hpp>
#include <flashinfer/page/append_paged_kv_cache.hpp>
#include <flashinfer/page/get_batch_indices_positions.hpp>
#include <flashinfer/page/get_seq_lens.hpp>

#include <nanobind/stl/pair.h>

namespace flashinfer::bindings {
namespace {

/// `count` entries of dimension `dim` from `first` on; the dimension goes if count is 0.
TensorView sliced(TensorView t, int dim, int64_t first) {
  t.data = t.as<char>() + (t.numel() ? first * t.strides[dim] * size_of(t.dtype) : 0);
  for (int i = dim; i + 1 < t.ndim; ++i) t.shape[i] = t.shape[i + 1], t.strides[i] = t.strides[i + 1];
  --t.ndim;
  return t;
}

/// Pages as [num_pages, page_size, num_kv_heads, head_dim]; of page size 1 they may lack that dimension.
TensorView pages_of(const Check& check, TensorView t, bool hnd) {
  check.rank("paged_kv_cache", t, 3, 4);
  if (t.ndim == 3) {
    for (int i = 3; i > 1; --i) t.shape[i] = t.shape[i - 1], t.strides[i] = t.strides[i - 1];
    t.shape[1] = 1, t.ndim = 4;
  } else if (hnd) {
    std::swap(t.shape[1], t.shape[2]);
    std::swap(t.strides[1], t.strides[2]);
  }
  return t;
}

void append_paged_kv_cache(const Tensor& append_key, const Tensor& append_value, const Tensor& batch_indices, const Tensor& positions,
                           nb::object paged_kv_cache, const Tensor& kv_indices, const Tensor& kv_indptr, const Tensor& kv_last_page_len,
                           const std::string& kv_layout) {
  if (kv_layout != "NHD" && kv_layout != "HND") throw nb::key_error(("append_paged_kv_cache: Invalid kv_layout " + kv_layout).c_str());
  const bool hnd = kv_layout == "HND";
  Call call("append_paged_kv_cache");
  const Check check("append_paged_kv_cache");
  const TensorView key = call.in("append_key", append_key), value = call.in("append_value", append_value);
  TensorView k_cache, v_cache;
  if (nb::isinstance<nb::tuple>(paged_kv_cache) || nb::isinstance<nb::list>(paged_kv_cache)) {
    const size_t count = nb::len(paged_kv_cache);
    check.that(count == 2, "paged_kv_cache", "a pair (k_cache, v_cache)", [&] { return std::to_string(count) + " tensors"; });
    k_cache = call.out("paged_kv_cache", Tensor{nb::object(paged_kv_cache[0])});
    v_cache = call.out("paged_kv_cache", Tensor{nb::object(paged_kv_cache[1])});
  } else {
    if (nb::isinstance<nb::str>(paged_kv_cache) || nb::isinstance<nb::dict>(paged_kv_cache) || paged_kv_cache.is_none())
      throw nb::key_error("append_paged_kv_cache: Unrecognized paged_kv_cache type, expect a single tensor or a tuple of tensors");
    const TensorView both = call.out("paged_kv_cache", Tensor{paged_kv_cache});
    check.rank("paged_kv_cache", both, 4, 5);
    check.that(both.shape[1] == 2, "paged_kv_cache", "keys and values stacked in dimension 1", [&] { return "shape " + shape_of(both); });
    k_cache = sliced(both, 1, 0), v_cache = sliced(both, 1, 1);
  }
  k_cache = pages_of(check, k_cache, hnd), v_cache = pages_of(check, v_cache, hnd);
  const TensorView b = call.in("batch_indices", batch_indices), p = call.in("positions", positions);
  const TensorView indices = call.in("kv_indices", kv_indices), indptr = call.in("kv_indptr", kv_indptr);
  const TensorView last = call.in("kv_last_page_len", kv_last_page_len);
  call.run([&](const Context& context) {
    flashinfer::append_paged_kv_cache(key, value, b, p, k_cache, v_cache, indices, indptr, last, context);
  });
}

void append_paged_mla_kv_cache(const Tensor& append_ckv, const Tensor& append_kpe, const Tensor& batch_indices, const Tensor& positions,
                               const Tensor& ckv_cache, const Tensor& kpe_cache, const Tensor& kv_indices, const Tensor& kv_indptr,
                               const Tensor& kv_last_page_len) {
  Call call("append_paged_mla_kv_cache");
  const TensorView ckv = call.in("append_ckv", append_ckv), kpe = call.in("append_kpe", append_kpe);
  const TensorView b = call.in("batch_indices", batch_indices), p = call.in("positions", positions);
  const TensorView ckv_pages = call.out("ckv_cache", ckv_cache), kpe_pages = call.out("kpe_cache", kpe_cache);
  const TensorView indices = call.in("kv_indices", kv_indices), indptr = call.in("kv_indptr", kv_indptr);
  const TensorView last = call.in("kv_last_page_len", kv_last_page_len);
  call.run([&](const Context& context) {
    flashinfer::append_paged_mla_kv_cache(ckv, kpe, b, p, ckv_pages, kpe_pages, indices, indptr, last, context);
  });
}

std::pair<Tensor, Tensor> get_batch_indices_positions(const Tensor& append_indptr, const Tensor& seq_lens, int64_t nnz,
                                                      const std::optional<Tensor>& batch_indices, const std::optional<Tensor>& positions) {
  Call call("get_batch_indices_positions");
  const Check check("get_batch_indices_positions");
  check.that(nnz >= 0 && nnz <= INT32_MAX, "nnz", "0 to 2^31 - 1", [&] { return std::to_string(nnz); });
  const TensorView indptr = call.in("append_indptr", append_indptr), lens = call.in("seq_lens", seq_lens);
  const Output b = call.out("batch_indices", batch_indices, DType::i32, {nnz}), p = call.out("positions", positions, DType::i32, {nnz});
  check.shape("batch_indices", b.view, {{"nnz", nnz}});
  check.shape("positions", p.view, {{"nnz", nnz}});
  call.run([&](const Context& context) { flashinfer::get_batch_indices_positions(indptr, lens, b.view, p.view, context); });
  return {b.result(), p.result()};
}

Tensor get_seq_lens(const Tensor& kv_indptr, const Tensor& kv_last_page_len, int64_t page_size) {
  Call call("get_seq_lens");
  const TensorView indptr = call.in("kv_indptr", kv_indptr), last = call.in("kv_last_page_len", kv_last_page_len);
  const Output lens = call.out("seq_lens", {}, last);
  call.run([&](const Context& context) { flashinfer::get_seq_lens(indptr, last, page_size, lens.view, context); });
  return lens.result();
}

const Family family{[](nb::module_& m) {
  m.def("append_paged_kv_cache", &append_paged_kv_cache, "append_key"_a, "append_value"_a, "batch_indices"_a, "positions"_a,
        "paged_kv_cache"_a, "kv_indices"_a, "kv_indptr"_a, "kv_last_page_len"_a, "kv_layout"_a = "NHD",
        R"(Copies new keys and values to their places in a paged KV cache: token t is the positions[t]-th of request batch_indices[t].

append_key: [num_tokens, num_kv_heads, head_dim], append_value: [num_tokens, num_kv_heads, head_dim_vo]. paged_kv_cache: a pair of
[num_pages, page_size, num_kv_heads, head_dim] (NHD) or [num_pages, num_kv_heads, page_size, head_dim] (HND), or both stacked in
dimension 1, of append_key's dtype; all strides but the innermost are free, and V's are its own. batch_indices, positions:
[num_tokens], kv_indices, kv_indptr: [batch_size + 1], kv_last_page_len: [batch_size], int32. Negative batch indices are padding.)");
  m.def("append_paged_mla_kv_cache", &append_paged_mla_kv_cache, "append_ckv"_a, "append_kpe"_a, "batch_indices"_a, "positions"_a,
        "ckv_cache"_a, "kpe_cache"_a, "kv_indices"_a, "kv_indptr"_a, "kv_last_page_len"_a,
        R"(As append_paged_kv_cache, for the cache of multi-head latent attention, which has no heads.

append_ckv: [num_tokens, ckv_dim], append_kpe: [num_tokens, kpe_dim], ckv_cache: [num_pages, page_size, ckv_dim], kpe_cache:
[num_pages, page_size, kpe_dim].)");
  m.def(
      "get_batch_indices_positions", &get_batch_indices_positions, "append_indptr"_a, "seq_lens"_a, "nnz"_a, "batch_indices"_a = nb::none(),
      "positions"_a = nb::none(),
      R"((batch_indices, positions) of new tokens: request r's, append_indptr[r] to append_indptr[r + 1] - 1, are the last of its seq_lens[r].

append_indptr: [batch_size + 1], seq_lens: [batch_size], int32 or int64. Results: [nnz], int32; entries behind append_indptr's last
become -1 and 0.)");
  m.def("get_seq_lens", &get_seq_lens, "kv_indptr"_a, "kv_last_page_len"_a, "page_size"_a,
        R"(Tokens of each request in a paged KV cache: max(pages - 1, 0) * page_size + kv_last_page_len.

kv_indptr: [batch_size + 1], kv_last_page_len: [batch_size], each int32 or int64; the result is as kv_last_page_len.)");
}};

const Tuned append_kernels{"append_paged_kv_cache",
                           [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_append_paged_kv_cache(arch, add); }};
const Tuned position_kernels{"get_batch_indices_positions",
                             [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_get_batch_indices_positions(arch, add); }};
const Tuned length_kernels{"get_seq_lens", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_get_seq_lens(arch, add); }};

// Under jax.jit (flashinfer/jax.py).
const XlaOp append_paged_kv_cache_op{"append_paged_kv_cache", [](XlaCall& c) {
                                       flashinfer::append_paged_kv_cache(c.in(0), c.in(1), c.in(2), c.in(3), c.pages(c.in_place(0, 4)),
                                                                         c.pages(c.in_place(1, 5)), c.in(6), c.in(7), c.in(8), c.context());
                                     }};
const XlaOp get_batch_indices_positions_op{"get_batch_indices_positions", [](XlaCall& c) {
                                             flashinfer::get_batch_indices_positions(c.in(0), c.in(1), c.out(0), c.out(1), c.context());
                                           }};
const XlaOp get_seq_lens_op{
    "get_seq_lens", [](XlaCall& c) { flashinfer::get_seq_lens(c.in(0), c.in(1), int64_t(c.number("page_size")), c.out(0), c.context()); }};

}  // namespace
}  // namespace flashinfer::bindings
