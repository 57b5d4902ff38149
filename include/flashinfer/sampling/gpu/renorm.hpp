// Host only. Launches renorm: a selection where a small top_k alone filters, one look at all of a row's masses where top_p alone does, else
// clusters that take rows in turn.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/gpu/renorm_tuning.hpp>
#include <flashinfer/sampling/gpu/row_launch.hpp>
#include <flashinfer/sampling/renorm_params.hpp>

namespace flashinfer::gpu {

inline void renorm(RenormParams params, RowValues values, DType input, DType output, const Context& context) {
  if (params.num_rows == 0) return;
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const bool by_mass = params.top_p.values || !(params.top_p.value >= 1);
  params.mixed = params.top_k.values && !by_mass;
  const RenormProblem problem{input, output, values, params.mixed, params.num_rows, params.vocab_size};
  if (params.mixed || (!by_mass && params.is_topk(params.top_k.value))) {
    const TopkRenormConfig config = tune_topk(problem, device);
    launch(config, cluster_a_row(config, params.num_rows, context.pdl), params, context);
    if (!params.mixed) return;
    params.beside = true;
  }
  const bool by_count = params.top_k.values || (params.top_k.value > 0 && params.top_k.value < params.vocab_size);
  if (values == RowValues::probs && by_mass && !by_count) {
    const ToppRenormConfig config = tune_topp(problem, device);
    return launch(config, cluster_a_row(config, params.num_rows, context.pdl), params, context);
  }
  const RenormConfig config = tune(problem, device);
  launch(config, clusters_in_turn(config.split(), params.num_rows, device, context.pdl), params, context);
}

}  // namespace flashinfer::gpu
