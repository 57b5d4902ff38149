// Host only. How top-k spreads rows over blocks. Tested on any machine: cpp_tests/topk/test_topk.cpp.
#pragma once

#include <flashinfer/runtime/device.hpp>
#include <flashinfer/topk/topk_params.hpp>

namespace flashinfer::gpu {

struct TopkProblem {
  DType input = DType::f32;
  int64_t num_rows = 0;
  int32_t width = 0;
  int32_t k = 0;
};

constexpr TopkConfig tune(const TopkProblem& problem, const DeviceInfo& device) {
  TopkConfig config{.input = problem.input};
  // Room for several times the candidates wanted: the bound comes from a sample, and where neighbours are alike it lets in more.
  const int most = device.smem_per_block >= (96 << 10) ? 8192 : 4096;
  while (config.capacity < most && config.capacity < 8 * int64_t(problem.k)) config.capacity *= 2;
  // Few rows: a cluster shares each, while its blocks have some elements for every thread.
  const int64_t least = 8192;
  if (device.arch.number >= 90)
    while (config.cluster < 8 && problem.num_rows * config.cluster * 2 <= 2 * device.num_sms && problem.width >= least * config.cluster * 2)
      config.cluster *= 2;
  // One block an SM: all its threads load the row. More rows: two blocks, so that one's selection hides behind the other's loads.
  if (problem.num_rows * config.cluster <= device.num_sms && device.arch.number != 75) config.threads = 1024;
  return config;
}

/// What a kernel is likely to be asked for: the sampler's vocabulary and the indexers of sparse attention.
template <class Visit>
constexpr void for_each_tuned_topk(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (int64_t num_rows : {1, 64, 128, 512})
      for (int32_t k : {64, 512, 2048}) visit(tune(TopkProblem{dtype, num_rows, 131072, k}, device));
}

}  // namespace flashinfer::gpu
