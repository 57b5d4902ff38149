// Host only. The kernels of softmax, for what they are asked for.
#pragma once

#include <flashinfer/sampling/gpu/row_tuning.hpp>

namespace flashinfer::gpu {

struct SoftmaxProblem {
  DType input = DType::f32;
  int64_t num_rows = 0, vocab_size = 0;
};

constexpr SoftmaxConfig tune(const SoftmaxProblem& problem, const DeviceInfo& device) {
  const RowSplit split = split_rows(problem.input, problem.num_rows, problem.vocab_size, device);
  return {.input = problem.input, .threads = split.threads, .cluster = split.cluster, .chunks = split.chunks, .blocks = split.blocks};
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_softmax(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (DType input : {DType::f32, DType::bf16})
    for (int64_t vocab_size : {128256, 151936})
      for (int64_t num_rows : {1, 16, 256}) visit(tune(SoftmaxProblem{input, num_rows, vocab_size}, device));
}

}  // namespace flashinfer::gpu
