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
  SoftmaxConfig config{problem.input, split.threads, split.cluster, split.chunks, split.blocks};
  if (split.cluster == 1 || problem.num_rows <= clusters_at_once(split.cluster, split.blocks, device)) return config;  // all run at once
  SoftmaxConfig narrow = config;
  // Of 128256 floats, us at 64 / 128 / 512 rows (H100): two blocks of 512 threads an SM with half a row ahead 43.5 / 72 / 242, without 44 /
  // 73 / 246, two of 256 44 / 72 / 238, three of 256 39 / 63 / 219, three of 512 39 / 63 / 225.
  const int64_t vecs = problem.vocab_size / (16 / size_of(problem.input)) + 2;
  narrow.threads = 256;
  narrow.chunks = int32_t(ceil_div(ceil_div(vecs, int64_t(narrow.cluster)), int64_t(narrow.threads)));
  for (narrow.blocks = 3; narrow.blocks > 1; --narrow.blocks)
    if (narrow.blocks * (narrow.smem_bytes() + 1024) <= device.smem_per_sm) return narrow;
  return config;
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
