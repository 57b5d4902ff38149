// Host only. Launches LayerNorm: a block for every rows_per_block rows.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/norm/gpu/layernorm_tuning.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

inline void layernorm(const LayernormParams& params, const LayernormProblem& problem, const Context& context) {
  const LayernormConfig config = tune(problem, context.kernels->device_info(context.device.index));
  LaunchShape shape;
  shape.grid.x = uint32_t(min(ceil_div(params.num_rows, int64_t(config.rows_per_block)), int64_t(INT32_MAX)));
  shape.block.x = uint32_t(config.threads_per_row * config.rows_per_block);
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
