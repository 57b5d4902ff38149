// Host only. How chain speculative sampling spreads requests over blocks.
#pragma once

#include <flashinfer/runtime/device.hpp>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer::gpu {

struct SpeculativeProblem {
  int64_t batch_size = 0, vocab_size = 0;
};

/// As many blocks a request as there are SMs for it; each with at least a vector of both rows for every thread.
constexpr SpeculativeConfig tune(const SpeculativeProblem& problem, const DeviceInfo& device) {
  SpeculativeConfig config;
  if (!device.arch.has_tma()) return config;
  while (config.cluster < 8 && problem.batch_size * config.cluster * 2 <= 2 * device.num_sms &&
         problem.vocab_size > 8 * int64_t(config.cluster) * config.threads)
    config.cluster *= 2;
  return config;
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_speculative(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (int64_t batch_size : {1, 64, 256}) visit(tune(SpeculativeProblem{batch_size, 128256}, device));
}

}  // namespace flashinfer::gpu
