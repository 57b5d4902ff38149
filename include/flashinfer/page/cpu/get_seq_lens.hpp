// Host only. get_seq_lens on the CPU: too little work for more than one thread.
#pragma once

#include <flashinfer/page/get_seq_lens_params.hpp>

namespace flashinfer::cpu {

inline void get_seq_lens(const GetSeqLensParams& p, const GetSeqLensConfig& config) {
  for (int64_t request = 0; request < p.batch_size; ++request) {
    if (config.indptr == DType::i32 && config.length == DType::i32)
      write_seq_len<int32_t, int32_t>(p, request);
    else if (config.indptr == DType::i32)
      write_seq_len<int32_t, int64_t>(p, request);
    else if (config.length == DType::i32)
      write_seq_len<int64_t, int32_t>(p, request);
    else
      write_seq_len<int64_t, int64_t>(p, request);
  }
}

}  // namespace flashinfer::cpu
