// Host only. Launches RMSNorm: as many blocks as fit the GPU, each taking an equal number of rows.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/norm/gpu/rmsnorm_tuning.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

inline void rmsnorm(const RmsnormParams& params, const RmsnormProblem& problem, const Context& context) {
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const RmsnormConfig config = tune(problem, device);
  const int64_t threads = config.threads_per_row * config.rows_per_block;
  const int64_t blocks = ceil_div(params.num_rows, int64_t(config.rows_per_block));
  const int64_t turns = ceil_div(blocks, device.num_sms * max(config.threads_per_sm() / threads, int64_t(1)));
  LaunchShape shape;
  shape.grid.x = uint32_t(ceil_div(blocks, turns));
  shape.block.x = uint32_t(threads);
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
