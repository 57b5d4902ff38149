// Host only. The kernels of renorm, for what they are asked for.
#pragma once

#include <flashinfer/sampling/gpu/row_tuning.hpp>

namespace flashinfer::gpu {

struct RenormProblem {
  DType input = DType::f32, output = DType::f32;
  RowValues values = RowValues::probs;
  int64_t num_rows = 0, vocab_size = 0;
};

constexpr RenormConfig tune(const RenormProblem& problem, const DeviceInfo& device) {
  const RowSplit split = split_rows(problem.input, problem.num_rows, problem.vocab_size, device);
  return {.input = problem.input,
          .output = problem.output,
          .values = problem.values,
          .threads = split.threads,
          .cluster = split.cluster,
          .chunks = split.chunks,
          .blocks = split.blocks};
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_renorm(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (int64_t vocab_size : {128256, 151936})
    for (int64_t num_rows : {1, 16, 256}) {
      visit(tune(RenormProblem{DType::f32, DType::f32, RowValues::probs, num_rows, vocab_size}, device));
      for (DType dtype : {DType::f32, DType::bf16})
        visit(tune(RenormProblem{dtype, dtype, RowValues::logits, num_rows, vocab_size}, device));
    }
}

}  // namespace flashinfer::gpu
