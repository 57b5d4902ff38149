// Host only. merge_state, merge_state_in_place and merge_states on a GPU: one launch.
#pragma once

#include <flashinfer/attention/gpu/merge_state_tuning.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

inline void merge_state(const MergeStateParams& params, const MergeStateProblem& problem, const Context& context) {
  const MergeStateConfig config = tune(problem, context.kernels->device_info(context.device.index));
  const int64_t rows = int64_t(params.num_tokens) * params.num_heads;
  LaunchShape shape;
  shape.grid = {uint32_t(ceil_div(rows, int64_t(config.kThreads / config.lanes())))};
  shape.block = {uint32_t(config.kThreads)};
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
