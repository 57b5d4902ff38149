// append_paged_kv_cache: writes new keys and values into the pages of a KV cache, bit by bit.
#pragma once

#include <string>
#include <vector>

#include <flashinfer/core/check.hpp>
#include <flashinfer/core/rows_of.hpp>
#include <flashinfer/page/cpu/append_paged_kv_cache.hpp>
#include <flashinfer/page/gpu/append_paged_kv_cache.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer {

namespace detail {

inline AppendedRows appended_rows(const TensorView& rows, const TensorView& cache) {
  const int64_t size = size_of(rows.dtype);
  return {rows.as<const char>(),  cache.as<char>(),       rows.stride(0) * size, rows.stride(1) * size,
          cache.stride(0) * size, cache.stride(1) * size, cache.stride(2) * size};
}

/// What the caller's function and its arguments are called.
struct AppendNames {
  const char* op = "append_paged_kv_cache";
  const char *key = "append_key", *value = "append_value", *k_cache = "paged_kv_cache", *v_cache = "paged_kv_cache";
};

/// A slot that lies in its request's pages must lie in the pool, too. The arrays are the host's.
inline void check_page_ids(const Check& check, const AppendPagedKvCacheParams& p) {
  for (int64_t token = 0; token < p.num_tokens; ++token) {
    const PageSlot slot = page_slot(p, token);
    check.that(
        !slot.exists || (slot.page >= 0 && slot.page < p.num_pages), "kv_indices",
        [&] { return "page ids from 0 to num_pages - 1 = " + std::to_string(p.num_pages - 1); },
        [&] { return std::to_string(slot.page) + " for token " + std::to_string(token); });
  }
}

inline void append_paged_kv_cache(const AppendNames& names, const TensorView& append_key, const TensorView& append_value,
                                  const TensorView& batch_indices, const TensorView& positions, const TensorView& k_cache,
                                  const TensorView& v_cache, const TensorView& kv_indices, const TensorView& kv_indptr,
                                  const TensorView& kv_last_page_len, const Context& context) {
  const Check check(names.op);
  check.rank(names.key, append_key, 3);
  check.dtype(names.key, append_key, {DType::f32, DType::f16, DType::bf16, DType::e4m3, DType::e5m2, DType::u8});
  check.shape(names.value, append_value, {{"num_tokens", append_key.size(0)}, {"num_kv_heads", append_key.size(1)}, {"head_dim_vo"}});
  check.that(append_key.size(2) > 0, names.key, "heads of at least one element", [&] { return "shape " + shape_of(append_key); });
  check.that(append_value.size(2) > 0, names.value, "heads of at least one element", [&] { return "shape " + shape_of(append_value); });
  check.rank(names.k_cache, k_cache, 4);
  check.shape(names.k_cache, k_cache,
              {{"num_pages"}, {"page_size"}, {"num_kv_heads", append_key.size(1)}, {"head_dim", append_key.size(2)}});
  check.shape(names.v_cache, v_cache,
              {{"num_pages", k_cache.size(0)},
               {"page_size", k_cache.size(1)},
               {"num_kv_heads", append_key.size(1)},
               {"head_dim_vo", append_value.size(2)}});
  check.that(k_cache.size(1) > 0, names.k_cache, "pages of at least one token", [&] { return "shape " + shape_of(k_cache); });
  for (const auto& [name, t] : {std::pair<const char*, const TensorView&>{names.key, append_key},
                                {names.value, append_value},
                                {names.k_cache, k_cache},
                                {names.v_cache, v_cache}}) {
    check.dtype(name, t, append_key.dtype);
    check.inner_stride(name, t);
    check.device(name, t, context.device);
  }
  check.writable(names.k_cache, k_cache);
  check.writable(names.v_cache, v_cache);
  const auto index = [&](const char* name, const TensorView& t) {
    check.rank(name, t, 1);
    check.dtype(name, t, DType::i32);
    check.contiguous(name, t);
    check.device(name, t, context.device);
  };
  index("batch_indices", batch_indices);
  index("positions", positions);
  index("kv_indices", kv_indices);
  index("kv_indptr", kv_indptr);
  index("kv_last_page_len", kv_last_page_len);
  check.shape("batch_indices", batch_indices, {{"num_tokens", append_key.size(0)}});
  check.shape("positions", positions, {{"num_tokens", append_key.size(0)}});
  check.shape("kv_indptr", kv_indptr, {{"batch_size + 1", kv_last_page_len.size(0) + 1}});
  for (const TensorView& t : {append_key, k_cache})
    for (int i = 0; i < t.ndim; ++i) check.that(t.shape[i] <= INT32_MAX, names.key, "extents below 2^31", [&] { return shape_of(t); });

  AppendPagedKvCacheParams params;
  params.k = appended_rows(append_key, k_cache);
  params.v = appended_rows(append_value, v_cache);
  params.batch_indices = batch_indices.as<const int32_t>();
  params.positions = positions.as<const int32_t>();
  params.indices = kv_indices.as<const int32_t>();
  params.indptr = kv_indptr.as<const int32_t>();
  params.num_indices = kv_indices.size(0);
  params.num_tokens = int32_t(append_key.size(0));
  params.batch_size = int32_t(kv_last_page_len.size(0));
  params.num_heads = int32_t(append_key.size(1));
  params.page_size = int32_t(k_cache.size(1));
  params.num_pages = int32_t(k_cache.size(0));

  const int64_t size = size_of(append_key.dtype), k_bytes = append_key.size(2) * size, v_bytes = append_value.size(2) * size;
  if (context.device.type == DeviceType::cpu) {
    check_page_ids(check, params);
    return cpu::append_paged_kv_cache(params, k_bytes, v_bytes);
  }
  if (context.validate) {
    AppendPagedKvCacheParams on_host = params;
    std::vector<int32_t> arrays[4];
    const int32_t** const pointers[] = {&on_host.batch_indices, &on_host.positions, &on_host.indices, &on_host.indptr};
    const TensorView* const tensors[] = {&batch_indices, &positions, &kv_indices, &kv_indptr};
    for (int i = 0; i < 4; ++i) {
      arrays[i].resize(size_t(tensors[i]->numel()));
      context.kernels->copy_to_host(arrays[i].data(), tensors[i]->data, arrays[i].size() * sizeof(int32_t), context);
      *pointers[i] = arrays[i].data();
    }
    check_page_ids(check, on_host);
  }
  int vec = int(16 / size);
  for (const TensorView& t : {append_key, append_value, k_cache, v_cache}) vec = aligned_width(vec, t);
  gpu::append_paged_kv_cache(params, {int(k_bytes), int(v_bytes), int(vec * size)}, context);
}

}  // namespace detail

/// Token t, the positions[t]-th of request r = batch_indices[t], goes to row positions[t] % page_size of page
/// kv_indices[kv_indptr[r] + positions[t] / page_size].
///   append_key     [num_tokens, num_kv_heads, head_dim]             f32, f16, bf16, e4m3, e5m2 or u8
///   append_value   [num_tokens, num_kv_heads, head_dim_vo]          the same dtype; the heads may be of another size
///   k_cache        [num_pages, page_size, num_kv_heads, head_dim]   the same dtype. All strides but the last are free, and V's are
///   v_cache        [num_pages, page_size, num_kv_heads, head_dim_vo]  its own: an HND cache is passed with dimensions 1 and 2 swapped
///   batch_indices, positions [num_tokens], kv_indices [num_indices], kv_indptr [batch_size + 1]    i32, contiguous
///   kv_last_page_len [batch_size]                                   i32; only its shape is looked at
/// Tokens with a negative batch index are padding; tokens outside of their request's pages are dropped too. A page id that the
/// pool lacks is an error where the host can see it, and drops the token on a GPU. Two tokens for one slot: either is written.
inline void append_paged_kv_cache(const TensorView& append_key, const TensorView& append_value, const TensorView& batch_indices,
                                  const TensorView& positions, const TensorView& k_cache, const TensorView& v_cache,
                                  const TensorView& kv_indices, const TensorView& kv_indptr, const TensorView& kv_last_page_len,
                                  const Context& context = {}) {
  detail::append_paged_kv_cache({}, append_key, append_value, batch_indices, positions, k_cache, v_cache, kv_indices, kv_indptr,
                                kv_last_page_len, context);
}

/// The same for the cache of multi-head latent attention, whose pages have no heads: keys are the latents, values the rotated part.
///   append_ckv [num_tokens, ckv_dim], append_kpe [num_tokens, kpe_dim]
///   ckv_cache  [num_pages, page_size, ckv_dim], kpe_cache [num_pages, page_size, kpe_dim]
inline void append_paged_mla_kv_cache(const TensorView& append_ckv, const TensorView& append_kpe, const TensorView& batch_indices,
                                      const TensorView& positions, const TensorView& ckv_cache, const TensorView& kpe_cache,
                                      const TensorView& kv_indices, const TensorView& kv_indptr, const TensorView& kv_last_page_len,
                                      const Context& context = {}) {
  const detail::AppendNames names{"append_paged_mla_kv_cache", "append_ckv", "append_kpe", "ckv_cache", "kpe_cache"};
  const auto with_head = [&](const char* name, TensorView t, int rank) {
    Check(names.op).rank(name, t, rank);
    t.shape[rank] = t.shape[rank - 1], t.strides[rank] = t.strides[rank - 1];
    t.shape[rank - 1] = 1, t.strides[rank - 1] = t.shape[rank] * t.strides[rank];
    ++t.ndim;
    return t;
  };
  detail::append_paged_kv_cache(names, with_head(names.key, append_ckv, 2), with_head(names.value, append_kpe, 2), batch_indices, positions,
                                with_head(names.k_cache, ckv_cache, 3), with_head(names.v_cache, kpe_cache, 3), kv_indices, kv_indptr,
                                kv_last_page_len, context);
}

}  // namespace flashinfer
