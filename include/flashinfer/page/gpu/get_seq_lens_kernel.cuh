// get_seq_lens: one line of integer arithmetic a request.
// Called by gpu/get_seq_lens.hpp; twin of cpu/get_seq_lens.hpp.
//
// Bound by: the launch.
// Threads:  one a request.
// Memory:   16 bytes a request.
// Sync:     none.
#pragma once

#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/page/get_seq_lens_params.hpp>

namespace flashinfer {

template <GetSeqLensConfig kConfig>
struct GetSeqLensKernel {
  using Params = GetSeqLensParams;
  static constexpr int kThreads = kConfig.kThreads;
  static constexpr int kMinBlocks = 8;

  static __device__ void run(const Params& p) {
    const int64_t request = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    using Index = conditional_t<kConfig.indptr == DType::i64, int64_t, int32_t>;
    using Length = conditional_t<kConfig.length == DType::i64, int64_t, int32_t>;
    if (request < p.batch_size) write_seq_len<Index, Length>(p, request);
  }
};

}  // namespace flashinfer
