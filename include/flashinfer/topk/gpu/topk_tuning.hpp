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

/// Room for several times the candidates wanted: their bound comes from a sample, and where neighbours are alike it lets in more.
constexpr int topk_capacity(const TopkProblem& problem, const DeviceInfo& device) {
  const int most = device.smem_per_block >= (96 << 10) ? 8192 : 4096;
  int capacity = 2048;
  while (capacity < most && capacity < 8 * int64_t(problem.k)) capacity *= 2;
  return capacity;
}

constexpr TopkConfig tune(const TopkProblem& problem, const DeviceInfo& device) {
  TopkConfig config{.input = problem.input};
  // Few rows: as many blocks share each as there are SMs, while there are some elements for every thread.
  const int64_t least = 8192;
  if (device.arch.number >= 90)
    while (config.cluster < 8 && problem.num_rows * config.cluster * 2 <= device.num_sms && problem.width >= least * config.cluster * 2)
      config.cluster *= 2;
  // Very few: sixteen, of which each has half as much to bring. Clusters of more than 8 are not on every GPU, and few at a time.
  const bool widest = config.cluster == 8 && device.arch.number < 110 && problem.num_rows <= clusters_at_once(16, 1, device) &&
                      problem.width >= least * config.cluster;
  if (widest) config.cluster = 16;
  // One block an SM. Eight or more for a row: registers hold it, up to 128 K floats, of sixteen 256 K, which are read once (H200, 1 and
  // 16 rows with eight: 17.0 and 21.7 us, with twice the threads 19.2 and 28.4). Fewer: threads enough to keep the memory busy (64 and 128
  // rows: 25.7 and 32.4 us, with half of them 26.2 and 34.3). More rows: two blocks an SM, so that one's selection hides behind the other's
  // loads.
  // Not where a cluster would wait for another to end.
  const bool held = widest || (config.cluster == 8 && device.arch.number == 90 && problem.num_rows <= clusters_at_once(8, 1, device));
  const bool few = config.cluster < 8 && problem.num_rows * config.cluster <= device.num_sms;
  const bool narrow = device.arch.number >= 120 && (problem.input != DType::f32 || config.cluster > 1);  // smaller blocks spill there
  if (device.arch.number != 75 && (few || narrow)) config.threads = 1024;
  if (held) {
    const int64_t of_vec = int64_t(config.cluster) * config.threads * (16 / size_of(problem.input));  // elements
    config.stages = 0;
    while (config.vecs < 2 * size_of(problem.input) && problem.width > config.vecs * of_vec - 1024) config.vecs *= 2;
    return config;
  }
  // Rings keep more under way than registers: with three loads a thread DRAM was busy for 46 % of the time at 512 rows (H100, ncu).
  const auto fits = [&](int32_t stages) {
    config.stages = stages;
    const int smem = config.smem_bytes(topk_capacity(problem, device)) + 1024;
    return smem <= device.smem_per_block && smem * (1024 / config.threads) <= device.smem_per_sm;
  };
  if (device.arch.number < 80 || (!fits(4) && !fits(2))) {
    config.stages = 0;
    return config;
  }
  // Eight blocks for a row: all but one of a thread's vectors are on their way while the bound is found. Few wanted: half the threads, a
  // sample of twice the vectors (H100, k 64, 16 / 20 / 24 / 32 rows: 12.8 / 13.4 / 14.2 / 19.8 us, with 512 threads 14.5 / 13.8 / 14.2 /
  // 21.6). Not for more: candidates beyond half the threads (kFewRanks) are sorted, not placed by counting.
  if (config.cluster == 8 && device.arch.number == 90 && problem.input == DType::f32 && problem.k <= 64) {
    config.threads = 256, config.vecs = 8, config.stages = 8;
    return config;
  }
  const int32_t stages = config.stages;
  if (config.cluster == 8 && !fits(8)) config.stages = stages;
  return config;
}

/// What a kernel is likely to be asked for: the sampler's vocabulary and the indexers of sparse attention.
template <class Visit>
constexpr void for_each_tuned_topk(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (int64_t num_rows : {1, 16, 64, 128, 512}) visit(tune(TopkProblem{dtype, num_rows, 131072, 64}, device));
}

}  // namespace flashinfer::gpu
