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
  SoftmaxConfig config{problem.input, false, split.threads, split.cluster, 0, split.blocks};
  if (split.chunks == 0) return config;
  const auto holding_a_row = [&](SoftmaxConfig c) {
    const int64_t vecs = problem.vocab_size / (16 / size_of(problem.input)) + 2;
    c.chunks = int32_t(ceil_div(ceil_div(vecs, int64_t(c.cluster)), int64_t(c.threads)));
    return c;
  };
  const auto fits = [&](const SoftmaxConfig& c) {
    return c.smem_bytes() <= device.smem_per_block && c.blocks * (c.smem_bytes() + 1024) <= device.smem_per_sm;
  };
  // 16-bit rows as floats where there is room for that: else their exponentials are computed twice, and stores skip half of every sector.
  // H200, bf16, us at 1 / 16 / 128 / 512 rows 5.1 / 10.8 / 38 / 143; H100, before, as they are 88 / 342 instead of 51.6 / 187.
  if (size_of(problem.input) == 2) {
    const SoftmaxConfig of_floats = tune(SoftmaxProblem{DType::f32, problem.num_rows, problem.vocab_size}, device);
    const SoftmaxConfig wide = holding_a_row({problem.input, true, of_floats.threads, of_floats.cluster, 0, of_floats.blocks});
    if (of_floats.chunks > 0 && fits(wide)) return wide;
  }
  // Clusters whose blocks do not have an SM each leave no room for those of the next launch, which begin late: 8 rows take 7.7 us in
  // clusters of 16, 6.7 in clusters of 8.
  config = holding_a_row(config);
  if (config.cluster == 16 && problem.num_rows > clusters_at_once(16, 1, device)) {
    const SoftmaxConfig larger = holding_a_row({problem.input, false, config.threads, 8, 0, config.blocks});
    if (fits(larger)) config = larger;
  }
  // Six leave room for those of the next launch with more rows: 16 rows take 8.8 us on an H200, in the way of many 10.1; 19 rows, which do
  // not have an SM for each block, 12.9 and 10.1.
  const SoftmaxConfig six = holding_a_row({problem.input, false, 512, 6, 0, 2});
  const bool long_rows = problem.vocab_size >= 6 * 8192, late = problem.num_rows > clusters_at_once(8, 1, device);
  if (long_rows && late && problem.num_rows <= clusters_at_once(6, 1, device) && fits(six)) return six;
  if (config.cluster == 1 || problem.num_rows <= clusters_at_once(config.cluster, 1, device)) return config;
  // H200, 128256 floats, us at 16 / 32 / 64 / 128 / 512 rows: three blocks of 256 threads an SM 10.0 / 15.3 / 28.6 / 43.4 / 157, two
  // 10.0 / 19.1 / 28.8 / 60 / 195, two of 512 10.9 / 20.7 / 30.6 / 52.5 / 181, four of 256 in clusters of 16 11 / 20.3 / 31.4 / 53.8 / 196.
  SoftmaxConfig narrow = holding_a_row({problem.input, false, 256, config.cluster, 0, 3});
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
      for (int64_t num_rows : {1, 8, 16, 256}) visit(tune(SoftmaxProblem{input, num_rows, vocab_size}, device));
}

}  // namespace flashinfer::gpu
