// Host only. Launches top-k selection: one cluster of blocks a row.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/topk/gpu/topk_tuning.hpp>

namespace flashinfer::gpu {

inline void topk(TopkParams params, DType input, const Context& context) {
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const TopkProblem problem{input, params.num_rows, params.width, params.k};
  const TopkConfig config = tune(problem, device);
  if (params.capacity == 0) params.capacity = topk_capacity(problem, device);
  LaunchShape shape;
  shape.grid.x = uint32_t(params.num_rows * config.cluster);
  shape.block.x = uint32_t(config.threads);
  shape.cluster.x = uint32_t(config.cluster);
  shape.smem_bytes = config.smem_bytes(params.capacity);
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
