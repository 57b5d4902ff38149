// Host only. append_paged_kv_cache on the CPU: a copy per head.
#pragma once

#include <cstring>

#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/page/append_paged_kv_cache_params.hpp>

namespace flashinfer::cpu {

inline void append_rows(const AppendedRows& x, int64_t token, const PageSlot& slot, int32_t num_heads, int64_t row_bytes) {
  const char* from = x.rows + token * x.row_stride_token;
  char* to = x.pages + slot.page * x.page_stride + slot.row * x.page_stride_token;
  for (int32_t head = 0; head < num_heads; ++head)
    std::memcpy(to + head * x.page_stride_head, from + head * x.row_stride_head, size_t(row_bytes));
}

/// Page ids have been checked.
inline void append_paged_kv_cache(const AppendPagedKvCacheParams& p, int64_t k_bytes, int64_t v_bytes) {
  const int64_t token_bytes = max(p.num_heads * (k_bytes + v_bytes), int64_t(1));
  parallel_for(p.num_tokens, max(65536 / token_bytes, int64_t(1)), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const PageSlot slot = page_slot(p, token);
      if (!slot.exists) continue;
      append_rows(p.k, token, slot, p.num_heads, k_bytes);
      append_rows(p.v, token, slot, p.num_heads, v_bytes);
    }
  });
}

}  // namespace flashinfer::cpu
