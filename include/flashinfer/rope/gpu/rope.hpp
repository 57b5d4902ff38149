// Host only. RoPE on a GPU: one launch for q and k.
#pragma once

#include <flashinfer/rope/gpu/rope_tuning.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

inline void rope(const RopeProblem& problem, const RopeFrequencyParams& params, const Context& context) {
  const RopeConfig config = tune(problem, context.kernels->device_info(context.device.index));
  LaunchShape shape;
  shape.grid = {uint32_t(ceil_div(params.num_tokens, config.tokens))};
  shape.block = {uint32_t(config.threads_per_head() * config.heads() * config.tokens)};
  shape.pdl = context.pdl;
  if (params.q.num_heads + params.k.num_heads == 0) return;
  if (config.angle == RopeAngle::cache)
    launch(config, shape, static_cast<const RopeParams&>(params), context);
  else
    launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
