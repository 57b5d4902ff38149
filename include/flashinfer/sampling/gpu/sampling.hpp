// Host only. Launches sampling: a race of each row where the host knows that top_p alone cuts it, or nothing; else clusters that take rows
// in turn.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/gpu/row_launch.hpp>
#include <flashinfer/sampling/gpu/sampling_tuning.hpp>

namespace flashinfer::gpu {

/// Whether the host can tell that nothing cuts the rows, or top_p alone.
inline bool is_race(const SamplingParams& p) {
  const bool given = p.temperature.values || p.top_k.values || p.min_p.values;
  const bool filtered = is_greedy(p.temperature.value) || (p.top_k.value > 0 && p.top_k.value < p.vocab_size) || p.min_p.value > 0;
  return !given && !filtered;
}

inline void sampling(const SamplingParams& params, RowValues values, DType input, const Context& context) {
  if (params.num_rows == 0) return;
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const bool extras = params.logprob || params.num_top > 0 || params.probs;
  if (!extras && is_race(params)) {
    const bool top_p = params.top_p.values || !(params.top_p.value >= 1);
    const RaceConfig config = tune(RaceProblem{input, values, top_p, params.num_rows, params.vocab_size}, device);
    LaunchShape shape;
    shape.grid.x = uint32_t(params.num_rows * config.cluster);
    shape.block.x = uint32_t(config.threads);
    shape.smem_bytes = config.smem_bytes();
    shape.cluster.x = uint32_t(config.cluster);
    shape.pdl = context.pdl;
    return launch(config, shape, params, context);
  }
  const SamplingConfig config = tune(SamplingProblem{input, values, extras, params.num_rows, params.vocab_size}, device);
  launch(config, shape_of(config.split(), params.num_rows, device, context.pdl), params, context);
}

}  // namespace flashinfer::gpu
