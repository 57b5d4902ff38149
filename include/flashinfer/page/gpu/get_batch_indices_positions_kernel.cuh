// get_batch_indices_positions: a binary search in append_indptr for every token.
// Called by gpu/get_batch_indices_positions.hpp; twin of cpu/get_batch_indices_positions.hpp.
//
// Bound by: the latency of the search, log2(batch_size) dependent loads that the L1 cache serves.
// Threads:  one a token.
// Memory:   8 bytes written a token.
// Sync:     none.
#pragma once

#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/page/get_batch_indices_positions_params.hpp>

namespace flashinfer {

template <GetBatchIndicesPositionsConfig kConfig>
struct GetBatchIndicesPositionsKernel {
  using Params = GetBatchIndicesPositionsParams;
  static constexpr int kThreads = kConfig.kThreads;
  static constexpr int kMinBlocks = 8;

  static __device__ void run(const Params& p) {
    using Index = conditional_t<kConfig.append_indptr == DType::i64, int64_t, int32_t>;
    using Length = conditional_t<kConfig.seq_lens == DType::i64, int64_t, int32_t>;
    const int64_t token = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    if (token < p.num_tokens) write_batch_index_position<Index, Length>(p, token);
  }
};

}  // namespace flashinfer
