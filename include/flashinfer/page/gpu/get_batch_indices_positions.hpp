// Host only. get_batch_indices_positions on a GPU: a thread a token.
#pragma once

#include <flashinfer/page/gpu/get_batch_indices_positions_tuning.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

inline void get_batch_indices_positions(const GetBatchIndicesPositionsParams& params, DType append_indptr, DType seq_lens,
                                        const Context& context) {
  const GetBatchIndicesPositionsConfig config{append_indptr, seq_lens};
  LaunchShape shape;
  shape.grid = {uint32_t(ceil_div(params.num_tokens, int64_t(config.kThreads)))};
  shape.block = {uint32_t(config.kThreads)};
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
