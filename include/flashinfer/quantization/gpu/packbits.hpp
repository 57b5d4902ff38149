// Host only. packbits and segment_packbits on a GPU: one launch each.
#pragma once

#include <flashinfer/quantization/gpu/packbits_tuning.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

inline void packbits(const PackbitsParams& params, BitOrder order, const Context& context) {
  const PackbitsConfig config = tune(PackbitsProblem{order}, context.kernels->device_info(context.device.index));
  LaunchShape shape;
  shape.grid = {uint32_t(ceil_div(params.output_size, kPackbitsTile))};
  shape.block = {kPackbitsThreads};
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

/// Blocks of one segment: as many as would cover the input if the segments were of one length. They loop over longer ones.
inline void segment_packbits(const PackbitsParams& params, BitOrder order, DType indptr, const Context& context) {
  const PackbitsConfig config = tune(PackbitsProblem{order, true, indptr}, context.kernels->device_info(context.device.index));
  // Without segments, one block writes packed_indptr[0].
  const int64_t num_segments = max(params.num_segments, 1);
  LaunchShape shape;
  shape.grid = {uint32_t(num_segments),
                uint32_t(clamp(ceil_div(packed_size(params.num_bits) / num_segments, kPackbitsTile), int64_t(1), int64_t(65535)))};
  shape.block = {kPackbitsThreads};
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
