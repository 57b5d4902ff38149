// Host only. The kernels of sampling, for what they are asked for.
#pragma once

#include <flashinfer/sampling/gpu/row_tuning.hpp>

namespace flashinfer::gpu {

struct SamplingProblem {
  DType input = DType::f32;
  RowValues values = RowValues::logits;
  bool extras = false;
  int64_t num_rows = 0, vocab_size = 0;
};

constexpr SamplingConfig tune(const SamplingProblem& problem, const DeviceInfo& device) {
  // Two blocks an SM have 64 registers a thread: not enough for what is reported, nor for 16-bit rows from sm_100 on.
  const bool wide = problem.extras || (problem.input != DType::f32 && device.arch.number >= 100);
  const RowSplit split = split_rows(problem.input, problem.num_rows, problem.vocab_size, device, wide ? 1 : 2);
  return {.input = problem.input,
          .values = problem.values,
          .extras = problem.extras,
          .threads = split.threads,
          .cluster = split.cluster,
          .chunks = split.chunks,
          .blocks = split.blocks};
}

/// Rows that no filter cuts are read once, from global memory: a wave of blocks, as many a row as that leaves.
constexpr RaceConfig tune_race(DType input, RowValues values, int64_t num_rows, int64_t vocab_size, const DeviceInfo& device) {
  RaceConfig config{.input = input, .values = values};
  const bool clusters = device.arch.has_tma();
  const int64_t vecs = vocab_size / (16 / size_of(input)) + 2;
  // Few rows do not fill the GPU: then the threads of an SM have few vectors each, and wait for little else than their first loads.
  if (num_rows * 16 <= device.num_sms || !clusters) config.threads = num_rows * 2 <= device.num_sms && !clusters ? 1024 : 512;
  config.blocks = 768 / config.threads > 0 ? 768 / config.threads : 1;
  const int32_t most = !clusters ? 1 : device.arch.number < 110 ? 16 : 8;  // more than 8 not on every GPU
  while (config.cluster < most && num_rows * config.cluster * 2 <= int64_t(device.num_sms) * config.blocks &&
         vecs > 2 * int64_t(config.cluster) * config.threads)
    config.cluster *= 2;
  return config;
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_sampling(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (int64_t vocab_size : {128256, 151936})
    for (int64_t num_rows : {1, 16, 256}) {
      visit(tune_race(DType::f32, RowValues::logits, num_rows, vocab_size, device));
      visit(tune_race(DType::bf16, RowValues::logits, num_rows, vocab_size, device));
      visit(tune_race(DType::f32, RowValues::probs, num_rows, vocab_size, device));
      visit(tune(SamplingProblem{DType::f32, RowValues::logits, false, num_rows, vocab_size}, device));
      visit(tune(SamplingProblem{DType::bf16, RowValues::logits, false, num_rows, vocab_size}, device));
      visit(tune(SamplingProblem{DType::f32, RowValues::probs, false, num_rows, vocab_size}, device));
      visit(tune(SamplingProblem{DType::f32, RowValues::logits, true, num_rows, vocab_size}, device));
    }
}

}  // namespace flashinfer::gpu
