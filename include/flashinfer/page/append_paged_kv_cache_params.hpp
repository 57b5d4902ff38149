// What both back ends share of append_paged_kv_cache: where a token's keys and values go. Rows are copied bit by bit, so
// everything is counted in bytes.
#pragma once

#include <flashinfer/core/math.hpp>

namespace flashinfer {

/// Keys, or values: tokens to append and the pages they go to. Strides in bytes.
struct AppendedRows {
  const char* rows = nullptr;  // [num_tokens, num_heads, row_bytes]
  char* pages = nullptr;       // [num_pages, page_size, num_heads, row_bytes]
  int64_t row_stride_token = 0, row_stride_head = 0;
  int64_t page_stride = 0, page_stride_token = 0, page_stride_head = 0;
};

struct AppendPagedKvCacheParams {
  AppendedRows k, v;
  const int32_t* batch_indices = nullptr;  // [num_tokens]
  const int32_t* positions = nullptr;      // [num_tokens]
  const int32_t* indices = nullptr;        // [num_indices]
  const int32_t* indptr = nullptr;         // [batch_size + 1]
  int64_t num_indices = 0;
  int32_t num_tokens = 0, batch_size = 0, num_heads = 0, page_size = 0, num_pages = 0;
};

/// Where one token goes, if anywhere.
struct PageSlot {
  bool exists = false;
  int32_t page = 0, row = 0;  // page: as found in indices, not yet compared with num_pages
};

FLASHINFER_HOST_DEVICE PageSlot page_slot(const AppendPagedKvCacheParams& p, int64_t token) {
  const int32_t request = p.batch_indices[token], position = p.positions[token];
  if (request < 0 || request >= p.batch_size || position < 0) return {};
  const int32_t page = position / p.page_size;
  const int64_t at = int64_t(p.indptr[request]) + page;
  if (at < 0 || at >= p.indptr[request + 1] || at >= p.num_indices) return {};
  return {true, p.indices[at], position - page * p.page_size};
}

struct AppendPagedKvCacheConfig {
  int k_bytes = 256, v_bytes = 256;  // of one head's row
  int vec_bytes = 16;                // of a load; divides both

  static constexpr const char* kName = "AppendPagedKvCacheConfig";
  static constexpr const char* kKernel = "AppendPagedKvCacheKernel";
  static constexpr const char* kHeader = "page/gpu/append_paged_kv_cache_kernel.cuh";
  template <class F>
  FLASHINFER_HOST_DEVICE constexpr void for_each_field(F&& f) const {
    f("k_bytes", k_bytes), f("v_bytes", v_bytes), f("vec_bytes", vec_bytes);
  }
  static constexpr int kTokens = 4;     // of a block, a warp each
  static constexpr int kVecs = 4 * 32;  // of a token, which one warp copies: four loads a lane, all in flight
};

}  // namespace flashinfer
