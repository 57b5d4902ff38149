// Host only. get_seq_lens on a GPU: a thread a request.
#pragma once

#include <flashinfer/page/gpu/get_seq_lens_tuning.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

inline void get_seq_lens(const GetSeqLensParams& params, const GetSeqLensConfig& config, const Context& context) {
  LaunchShape shape;
  shape.grid = {uint32_t(ceil_div(params.batch_size, int64_t(config.kThreads)))};
  shape.block = {uint32_t(config.kThreads)};
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
