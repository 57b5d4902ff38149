// What both back ends share of get_batch_indices_positions: the request of a token, and its place there.
#pragma once

#include <flashinfer/core/dtype.hpp>
#include <flashinfer/core/math.hpp>

namespace flashinfer {

struct GetBatchIndicesPositionsParams {
  const void* append_indptr = nullptr;  // [batch_size + 1]
  const void* seq_lens = nullptr;       // [batch_size]
  int32_t* batch_indices = nullptr;     // [num_tokens]
  int32_t* positions = nullptr;         // [num_tokens]
  int32_t batch_size = 0;
  int64_t num_tokens = 0;
};

/// Writes one token's request and position: -1 and 0 if it belongs to none.
template <class Index, class Length>
FLASHINFER_HOST_DEVICE void write_batch_index_position(const GetBatchIndicesPositionsParams& p, int64_t token) {
  const Index* indptr = static_cast<const Index*>(p.append_indptr);
  int32_t low = 0, high = p.batch_size;  // the last request that starts at or before the token
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    (indptr[middle] <= token ? low : high) = middle;
  }
  const bool found = p.batch_size > 0 && indptr[low] <= token && token < indptr[low + 1];
  p.batch_indices[token] = found ? low : -1;
  p.positions[token] = found ? int32_t(int64_t(static_cast<const Length*>(p.seq_lens)[low]) + token - int64_t(indptr[low + 1])) : 0;
}

struct GetBatchIndicesPositionsConfig {
  DType append_indptr = DType::i32, seq_lens = DType::i32;

  static constexpr const char* kName = "GetBatchIndicesPositionsConfig";
  static constexpr const char* kKernel = "GetBatchIndicesPositionsKernel";
  static constexpr const char* kHeader = "page/gpu/get_batch_indices_positions_kernel.cuh";
  template <class F>
  FLASHINFER_HOST_DEVICE constexpr void for_each_field(F&& f) const {
    f("append_indptr", append_indptr), f("seq_lens", seq_lens);
  }
  static constexpr int kThreads = 128;
};

}  // namespace flashinfer
