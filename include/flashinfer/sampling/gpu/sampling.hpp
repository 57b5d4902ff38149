// Host only. Launches sampling: one kernel where the host knows which draws every row (RowSampler), else each that may have rows to draw,
// beside each other.
#pragma once

#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/gpu/row_launch.hpp>
#include <flashinfer/sampling/gpu/sampling_tuning.hpp>

namespace flashinfer::gpu {

/// The kernels that may have rows to draw: one, if the host knows all that decides. An array may hold any of a parameter's kinds.
struct RowSamplers {
  bool race = false, topk = false, filter = false;

  constexpr explicit RowSamplers(const SamplingParams& p) {
    for (float temperature : {1.0f, 0.0f})
      for (int32_t k : {0, 1, kMostTopk + 1}) {
        const RowSampler sampler =
            p.sampler_for(p.temperature.values ? temperature : p.temperature.value, p.top_k.values ? k : p.top_k.value);
        race |= sampler == RowSampler::race, topk |= sampler == RowSampler::topk, filter |= sampler == RowSampler::filter;
      }
  }
  constexpr int count() const { return race + topk + filter; }
};

inline void sampling(SamplingParams params, RowValues values, DType input, const Context& context) {
  if (params.num_rows == 0) return;
  const DeviceInfo& device = context.kernels->device_info(context.device.index);
  const bool extras = params.logprob || params.num_top > 0 || params.probs;
  const RowSamplers samplers(params);
  params.mixed = !extras && samplers.count() > 1;
  if (!extras && samplers.race) {
    const bool top_p = params.top_p.values || !(params.top_p.value >= 1), min_p = params.min_p.values || params.min_p.value > 0;
    const RaceConfig config = tune(RaceProblem{input, values, top_p, min_p, params.num_rows, params.vocab_size}, device);
    LaunchShape shape = cluster_a_row(config, params.num_rows, context.pdl);
    shape.smem_bytes = max(shape.smem_bytes, smem_of_blocks(config.blocks, device));
    launch(config, shape, params, context);
    params.beside = true;
  }
  if (!extras && samplers.topk) {
    const bool joint = params.joint && (params.top_p.values || params.top_p.value < 1);
    const TopkSamplingConfig config = tune(TopkSamplingProblem{input, values, joint, params.num_rows, params.vocab_size}, device);
    launch(config, cluster_a_row(config, params.num_rows, context.pdl), params, context);
    params.beside = true;
  }
  if (!extras && !samplers.filter) return;
  const SamplingConfig config = tune(SamplingProblem{input, values, extras, params.mixed, params.num_rows, params.vocab_size}, device);
  launch(config, clusters_in_turn(config.split(), params.num_rows, device, context.pdl), params, context);
}

}  // namespace flashinfer::gpu
