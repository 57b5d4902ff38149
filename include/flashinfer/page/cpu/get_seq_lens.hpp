// Host only. get_seq_lens on the CPU: too little work for more than one thread.
#pragma once

#include <flashinfer/page/get_seq_lens_params.hpp>

namespace flashinfer::cpu {

inline void get_seq_lens(const GetSeqLensParams& p, DType index) {
  for (int64_t request = 0; request < p.batch_size; ++request) {
    if (index == DType::i32) write_seq_len<int32_t>(p, request);
    else write_seq_len<int64_t>(p, request);
  }
}

}  // namespace flashinfer::cpu
