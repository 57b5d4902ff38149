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

/// Clusters for as many rows as run at once with so many blocks on an SM: what does not begin with the rest begins when all of that has
/// ended, and so do those of the next launch, which begin early where each launch has one of two blocks on an SM. H200, us of joint
/// sampling, `top_k` 64 and masks: 16 rows by clusters of 6 10.6, 9.5 and 10.0, of 8 12.0, 10.3 and 10.7; 19 rows by 4 11.4, 10.5 and 11.9,
/// by 6 11.9, 10.9 and 11.7; 32 rows by 6 13.9, 12.1 and 13.3, by 4 15.8, 14.0 and 16.3, by 3 14.5, 13.2 and 16.3; 39 rows by 6 15.0, 13.8
/// and 14.5, by 4 15.0, 14.1 and 17.0.
struct TopkSplit {
  int32_t cluster, blocks;
};
constexpr TopkSplit kTopkSplits[] = {{8, 1}, {6, 1}, {4, 1}, {6, 2}, {4, 2}, {2, 1}};

constexpr TopkConfig tune(const TopkProblem& problem, const DeviceInfo& device) {
  TopkConfig config{.input = problem.input};
  const auto holds = [&](int32_t threads, int32_t stages) {
    config.threads = threads, config.stages = stages;
    const int smem = config.smem_bytes(topk_capacity(problem, device)) + 1024;
    return smem <= device.smem_per_block && smem * (1024 / threads) <= device.smem_per_sm;
  };
  // Two blocks of 512 threads an SM have room for rings of four stages, if not for a large k.
  const bool pairs = holds(512, 4) && device.arch.number >= 80;
  const int64_t least = 8192;
  if (device.arch.number >= 90)
    for (const TopkSplit& s : kTopkSplits)
      if (s.blocks <= (pairs ? 2 : 1) && problem.num_rows <= clusters_at_once(s.cluster, s.blocks, device) &&
          problem.width >= least * s.cluster) {
        config.cluster = s.cluster;
        break;
      }
  // Very few: sixteen, whose registers hold the row, up to 256 K floats, which are read once. Clusters of more than 8 are not on every GPU,
  // and few at a time; from sm_100 on 128 registers are not enough for what holds a row.
  if (config.cluster == 8 && device.arch.number < 100 && problem.num_rows <= clusters_at_once(16, 1, device) &&
      problem.width >= least * config.cluster) {
    config.cluster = 16, config.stages = 0;
    const int64_t of_vec = int64_t(config.cluster) * config.threads * (16 / size_of(problem.input));  // elements
    while (config.vecs < 2 * size_of(problem.input) && problem.width > config.vecs * of_vec - 1024) config.vecs *= 2;
    return config;
  }
  // A block of all threads of an SM where there are not more blocks, of few for a row: it keeps the memory busy. Else two, so that one's
  // selection, or the next launch's beginning, hides behind the other's loads: of eight for a row as well (H100, us at 8 / 12 / 16 rows by
  // rings of four stages 8.5 / 8.9 / 11.4, by registers that hold the row 8.7 / 9.3 / 14.5; 15 rows 9.5, for of the 16 clusters of two
  // launches two begin late).
  const bool few = config.cluster <= (pairs ? 2 : 4) && problem.num_rows * config.cluster <= device.num_sms;
  const bool narrow = device.arch.number >= 120 && (problem.input != DType::f32 || config.cluster > 1);  // smaller blocks spill there
  const int32_t threads = device.arch.number != 75 && (few || narrow) ? 1024 : 512;
  // Rings keep more under way than registers: with three loads a thread DRAM was busy for 46 % of the time at 512 rows (H100, ncu). Eight
  // stages where a quarter of a row is a block's, and an SM's: 20 to 30 rows 0.2 us less, masks 1.
  const bool longer = pairs && config.cluster == 4 && problem.num_rows * 4 <= device.num_sms;
  if (longer && holds(threads, 8)) return config;
  if ((!holds(threads, 4) && !holds(threads, 2)) || device.arch.number < 80) config.stages = 0;
  return config;
}

/// What a kernel is likely to be asked for: the sampler's vocabulary and the indexers of sparse attention.
template <class Visit>
constexpr void for_each_tuned_topk(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (int64_t num_rows : {1, 8, 16, 24, 48, 64, 128, 512}) visit(tune(TopkProblem{dtype, num_rows, 131072, 64}, device));
}

}  // namespace flashinfer::gpu
