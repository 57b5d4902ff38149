// Host only. Launches chain speculative sampling: a cluster a request.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/gpu/speculative_tuning.hpp>
#include <flashinfer/sampling/speculative_params.hpp>

namespace flashinfer::gpu {

inline void chain_speculative_sampling(const SpeculativeParams& params, const Context& context) {
  if (params.batch_size == 0) return;
  const SpeculativeConfig config =
      tune(SpeculativeProblem{params.batch_size, params.vocab_size}, context.kernels->device_info(context.device.index));
  LaunchShape shape;
  shape.grid.x = uint32_t(params.batch_size * config.cluster);
  shape.block.x = uint32_t(config.threads);
  shape.smem_bytes = SpeculativeConfig::kSmemBytes;
  shape.cluster.x = uint32_t(config.cluster);
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
