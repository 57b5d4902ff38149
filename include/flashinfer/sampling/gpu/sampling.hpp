// Host only. Launches sampling: clusters that take rows in turn.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/gpu/row_launch.hpp>
#include <flashinfer/sampling/gpu/sampling_tuning.hpp>

namespace flashinfer::gpu {

inline void sampling(const SamplingParams& params, RowValues values, DType input, const Context& context) {
  if (params.num_rows == 0) return;
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const bool extras = params.logprob || params.num_top > 0 || params.probs;
  const SamplingConfig config = tune(SamplingProblem{input, values, extras, params.num_rows, params.vocab_size}, device);
  launch(config, shape_of(config.split(), params.num_rows, device, context.pdl), params, context);
}

}  // namespace flashinfer::gpu
