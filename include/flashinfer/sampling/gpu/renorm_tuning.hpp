// Host only. The kernels of renorm, for what they are asked for.
#pragma once

#include <flashinfer/sampling/gpu/row_tuning.hpp>
#include <flashinfer/topk/gpu/topk_tuning.hpp>

namespace flashinfer::gpu {

struct RenormProblem {
  DType input = DType::f32, output = DType::f32;
  RowValues values = RowValues::probs;
  bool mixed = false;
  int64_t num_rows = 0, vocab_size = 0;
};

constexpr RenormConfig tune(const RenormProblem& problem, const DeviceInfo& device) {
  // 64 registers a thread are not enough for rows left over.
  const RowSplit split = split_rows(problem.input, problem.num_rows, problem.vocab_size, device, problem.mixed ? 256 : 512);
  return {.input = problem.input,
          .output = problem.output,
          .values = problem.values,
          .mixed = problem.mixed,
          .threads = split.threads,
          .cluster = split.cluster,
          .chunks = split.chunks,
          .blocks = split.blocks};
}

/// Rows are spread as top_k spreads them.
constexpr TopkRenormConfig tune_topk(const RenormProblem& problem, const DeviceInfo& device) {
  const TopkConfig topk = tune(TopkProblem{problem.input, problem.num_rows, int32_t(problem.vocab_size), kMostTopk / 2}, device);
  return {problem.input, problem.output, problem.values, topk.threads, topk.vecs, topk.stages, topk.cluster};
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_renorm(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (int64_t num_rows : {1, 16, 256}) {
    const auto tuned = [&](DType dtype, RowValues values, bool mixed) {
      const RenormProblem problem{dtype, dtype, values, mixed, num_rows, 128256};
      visit(tune(problem, device));
      visit(tune_topk(problem, device));
    };
    for (bool mixed : {false, true}) tuned(DType::f32, RowValues::probs, mixed);
    for (DType dtype : {DType::f32, DType::bf16}) tuned(dtype, RowValues::logits, false);
  }
}

}  // namespace flashinfer::gpu
