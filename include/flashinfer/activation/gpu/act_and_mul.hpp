// Host only. Launches the gated activations: a block for every piece of a row.
#pragma once

#include <flashinfer/activation/gpu/act_and_mul_tuning.hpp>
#include <flashinfer/core/math.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

inline void act_and_mul(const ActAndMulParams& params, const ActAndMulProblem& problem, const Context& context) {
  const ActAndMulConfig config = tune(problem, context.kernels->device_info(context.device.index));
  const int64_t pieces = ceil_div(params.dim, int64_t(config.threads) * config.vecs * config.vec);
  LaunchShape shape;
  shape.grid.x = uint32_t(min(params.num_rows * pieces, int64_t(INT32_MAX)));
  shape.block.x = uint32_t(config.threads);
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
