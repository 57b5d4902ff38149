// Host only. Launches top-k selection: one cluster of blocks a row.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/topk/gpu/topk_tuning.hpp>

namespace flashinfer::gpu {

inline void topk(const TopkParams& params, DType input, const Context& context) {
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const TopkConfig config = tune(TopkProblem{input, params.num_rows, params.width, params.k}, device);
  LaunchShape shape;
  shape.grid.x = uint32_t(params.num_rows * config.cluster);
  shape.block.x = uint32_t(config.threads);
  shape.cluster.x = uint32_t(config.cluster);
  shape.smem_bytes = config.smem_bytes();
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
