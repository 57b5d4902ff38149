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
  const SoftmaxConfig config{problem.input, false, split.threads, split.cluster, split.chunks, split.blocks};
  const auto holding_a_row = [&](SoftmaxConfig c) {
    const int64_t vecs = problem.vocab_size / (16 / size_of(problem.input)) + 2;
    c.chunks = int32_t(ceil_div(ceil_div(vecs, int64_t(c.cluster)), int64_t(c.threads)));
    return c;
  };
  const auto fits = [&](const SoftmaxConfig& c) {
    return c.smem_bytes() <= device.smem_per_block && c.blocks * (c.smem_bytes() + 1024) <= device.smem_per_sm;
  };
  // 16-bit rows as floats where there is room for that: else their exponentials are computed twice, and stores skip half of every sector.
  // H100, bf16, us at 1 / 16 / 128 / 512 rows 5.7 / 11.9 / 51.6 / 187, as they are 7.1 / 15.5 / 88 / 342 (in clusters of 4 84 / 245).
  if (size_of(problem.input) == 2) {
    const SoftmaxConfig of_floats = tune(SoftmaxProblem{DType::f32, problem.num_rows, problem.vocab_size}, device);
    SoftmaxConfig wide = holding_a_row({problem.input, true, of_floats.threads, of_floats.cluster, 0, of_floats.blocks});
    if (of_floats.chunks > 0 && fits(wide)) return wide;
  }
  // Where clusters of 8 have no SM for each block, those of the next launch do not all fit beside them, and begin late. H100, 16 rows: 15.0
  // us, by smaller blocks 13.4 (15 rows 12.4, 20 15.8 by either).
  const SoftmaxConfig small = holding_a_row({problem.input, false, 256, 16, 0, 4});
  if (split.cluster == 8 && device.arch.number < 110 && problem.num_rows > clusters_at_once(8, 1, device) &&
      problem.num_rows * 16 <= 2 * int64_t(device.num_sms) && fits(small))
    return small;
  if (split.cluster == 1 || problem.num_rows <= clusters_at_once(split.cluster, split.blocks, device)) return config;  // all run at once
  // Of 128256 floats, us at 64 / 128 / 512 rows (H100): two blocks of 512 threads an SM with half a row ahead 43.5 / 72 / 242, without 44 /
  // 73 / 246, two of 256 44 / 72 / 238, three of 256 39 / 63 / 219, three of 512 39 / 63 / 225.
  SoftmaxConfig narrow = holding_a_row({problem.input, false, 256, split.cluster, 0, 3});
  for (; narrow.blocks > 1; --narrow.blocks)
    if (fits(narrow)) return narrow;
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
