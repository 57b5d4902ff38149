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
  const SoftmaxConfig config{problem.input, split.threads, split.cluster, split.chunks, split.blocks};
  // Blocks of 256 threads that hold a row.
  const auto narrow = [&](int32_t cluster, int32_t blocks) {
    const int64_t vecs = problem.vocab_size / (16 / size_of(problem.input)) + 2;
    return SoftmaxConfig{problem.input, 256, cluster, int32_t(ceil_div(ceil_div(vecs, int64_t(cluster)), int64_t(256))), blocks};
  };
  const auto fits = [&](const SoftmaxConfig& c) { return c.blocks * (c.smem_bytes() + 1024) <= device.smem_per_sm; };
  // Where clusters of 8 have no SM for each block, those of the next launch do not all fit beside them, and begin late. H100, 16 rows: 15.0
  // us, by smaller blocks 13.4 (15 rows 12.4, 20 15.8 by either).
  if (split.cluster == 8 && device.arch.number < 110 && problem.num_rows > clusters_at_once(8, 1, device) &&
      problem.num_rows * 16 <= 2 * int64_t(device.num_sms) && fits(narrow(16, 4)))
    return narrow(16, 4);
  if (split.cluster == 1 || problem.num_rows <= clusters_at_once(split.cluster, split.blocks, device)) return config;  // all run at once
  // Of 128256 floats, us at 64 / 128 / 512 rows (H100): two blocks of 512 threads an SM with half a row ahead 43.5 / 72 / 242, without 44 /
  // 73 / 246, two of 256 44 / 72 / 238, three of 256 39 / 63 / 219, three of 512 39 / 63 / 225.
  for (int32_t blocks = 3; blocks > 1; --blocks)
    if (fits(narrow(split.cluster, blocks))) return narrow(split.cluster, blocks);
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
