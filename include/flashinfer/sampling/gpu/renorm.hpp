// Host only. Launches renorm: clusters that take rows in turn.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/gpu/renorm_tuning.hpp>
#include <flashinfer/sampling/gpu/row_launch.hpp>
#include <flashinfer/sampling/renorm_params.hpp>

namespace flashinfer::gpu {

inline void renorm(const RenormParams& params, RowValues values, DType input, DType output, const Context& context) {
  if (params.num_rows == 0) return;
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const RenormConfig config = tune(RenormProblem{input, output, values, params.num_rows, params.vocab_size}, device);
  launch(config, shape_of(config.split(), params.num_rows, device, context.pdl), params, context);
}

}  // namespace flashinfer::gpu
