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

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_sampling(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (int64_t vocab_size : {128256, 151936})
    for (int64_t num_rows : {1, 16, 256}) {
      visit(tune(SamplingProblem{DType::f32, RowValues::logits, false, num_rows, vocab_size}, device));
      visit(tune(SamplingProblem{DType::bf16, RowValues::logits, false, num_rows, vocab_size}, device));
      visit(tune(SamplingProblem{DType::f32, RowValues::probs, false, num_rows, vocab_size}, device));
      visit(tune(SamplingProblem{DType::f32, RowValues::logits, true, num_rows, vocab_size}, device));
    }
}

}  // namespace flashinfer::gpu
