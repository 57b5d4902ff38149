// Host only. get_batch_indices_positions on the CPU.
#pragma once

#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/page/get_batch_indices_positions_params.hpp>

namespace flashinfer::cpu {

template <class Index, class Length>
void get_batch_indices_positions(const GetBatchIndicesPositionsParams& p) {
  parallel_for(p.num_tokens, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) write_batch_index_position<Index, Length>(p, token);
  });
}

inline void get_batch_indices_positions(const GetBatchIndicesPositionsParams& p, DType append_indptr, DType seq_lens) {
  if (append_indptr == DType::i32 && seq_lens == DType::i32)
    get_batch_indices_positions<int32_t, int32_t>(p);
  else if (append_indptr == DType::i32)
    get_batch_indices_positions<int32_t, int64_t>(p);
  else if (seq_lens == DType::i32)
    get_batch_indices_positions<int64_t, int32_t>(p);
  else
    get_batch_indices_positions<int64_t, int64_t>(p);
}

}  // namespace flashinfer::cpu
