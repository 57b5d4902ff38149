// Host only. Launches softmax: clusters that take rows in turn.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/gpu/row_launch.hpp>
#include <flashinfer/sampling/gpu/softmax_tuning.hpp>
#include <flashinfer/sampling/softmax_params.hpp>

namespace flashinfer::gpu {

inline void softmax(const SoftmaxParams& params, DType input, const Context& context) {
  if (params.num_rows == 0) return;
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const SoftmaxConfig config = tune(SoftmaxProblem{input, params.num_rows, params.vocab_size}, device);
  launch(config, clusters_in_turn(config, params.num_rows, device, context.pdl), params, context);
}

}  // namespace flashinfer::gpu
