// Host only. Launches sampling: clusters that take rows in turn.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/gpu/sampling_tuning.hpp>

namespace flashinfer::gpu {

/// Of a kernel of rows; rows are spread evenly over the clusters that run at the same time.
inline LaunchShape shape_of(const RowSplit& split, int64_t num_rows, const DeviceInfo& device, bool pdl) {
  const int64_t turns = ceil_div(num_rows, clusters_at_once(split, device));
  LaunchShape shape;
  shape.grid.x = uint32_t(ceil_div(num_rows, turns) * split.cluster);
  shape.block.x = uint32_t(split.threads);
  shape.smem_bytes = split.smem_bytes();
  shape.cluster.x = uint32_t(split.cluster);
  shape.pdl = pdl;
  return shape;
}

inline void sampling(const SamplingParams& params, RowValues values, DType input, const Context& context) {
  if (params.num_rows == 0) return;
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const bool extras = params.logprob || params.num_top > 0 || params.probs;
  const SamplingConfig config = tune(SamplingProblem{input, values, extras, params.num_rows, params.vocab_size}, device);
  launch(config, shape_of(config.split(), params.num_rows, device, context.pdl), params, context);
}

}  // namespace flashinfer::gpu
