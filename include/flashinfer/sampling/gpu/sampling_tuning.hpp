// Host only. The kernels of sampling, for what they are asked for.
#pragma once

#include <flashinfer/sampling/gpu/row_tuning.hpp>
#include <flashinfer/topk/gpu/topk_tuning.hpp>

namespace flashinfer::gpu {

struct SamplingProblem {
  DType input = DType::f32;
  RowValues values = RowValues::logits;
  bool extras = false, mixed = false;
  int64_t num_rows = 0, vocab_size = 0;
};

constexpr SamplingConfig tune(const SamplingProblem& problem, const DeviceInfo& device) {
  // 64 registers a thread are not enough for what is reported, for 16-bit rows, for rows left over, nor for any from sm_100 on. With 256
  // threads a block, 512 rows take 8 % longer where top_k cuts them, as long with min_p (H100).
  const bool wide = problem.extras || problem.mixed || problem.input != DType::f32 || device.arch.number >= 100;
  const RowSplit split = split_rows(problem.input, problem.num_rows, problem.vocab_size, device, wide ? 256 : 512);
  return {.input = problem.input,
          .values = problem.values,
          .extras = problem.extras,
          .mixed = problem.mixed,
          .threads = split.threads,
          .cluster = split.cluster,
          .chunks = split.chunks,
          .blocks = split.blocks};
}

struct TopkSamplingProblem {
  DType input = DType::f32;
  RowValues values = RowValues::logits;
  bool joint = false;
  int64_t num_rows = 0, vocab_size = 0;
};

/// Rows are spread as top_k spreads them.
constexpr TopkSamplingConfig tune(const TopkSamplingProblem& problem, const DeviceInfo& device) {
  const TopkConfig topk = tune(TopkProblem{problem.input, problem.num_rows, int32_t(problem.vocab_size), kMostTopk / 2}, device);
  return {problem.input, problem.values, problem.joint, topk.threads, topk.vecs, topk.stages, topk.cluster};
}

struct RaceProblem {
  DType input = DType::f32;
  RowValues values = RowValues::logits;
  bool top_p = false, min_p = false;
  int64_t num_rows = 0, vocab_size = 0;
};

/// Blocks of so many threads, in clusters, and so many on an SM. Good for as many rows as have room when one launch runs, or two.
struct RaceSplit {
  int32_t threads, cluster, blocks, launches = 1;
  bool for_all = true;  // else for rows of floats that nothing filters
};

/// How a GPU with room for large clusters is filled, by the number of rows: what does not begin with the rest begins when all of that has
/// ended, and so do the clusters of the next launch. H100, us of from_probs at 8 / 15 / 20 / 30 / 44 / 64 / 88 / 128 / 176 rows 5.8 / 6.4 /
/// 8.1 / 9.2 / 11.8 / 15.0 / 19.5 / 26.0 / 34.6; by as large clusters as leave an SM for every block 5.8 / 7.7 / 10.5 / 9.2 / 13.4 / 15.0 /
/// 22.0 / 26.0 / 37.9; of logits, of 16 bits, and with filters alike. Clusters of 6 where nothing filters (H200, 16 and 32 rows 6.8 and
/// 10.4, by the splits after them 7.3 and 11.0; with top_p 13.7 and 19.0 instead of 13.1 and 17.6).
constexpr RaceSplit kRaceSplits[] = {{256, 16, 3, 2},       {512, 8, 2, 2}, {512, 6, 2, 2, false}, {256, 16, 3}, {512, 4, 2, 2},
                                     {512, 6, 2, 1, false}, {256, 8, 3},    {512, 2, 2, 2},        {256, 4, 3}};

constexpr RaceConfig tune(const RaceProblem& problem, const DeviceInfo& device) {
  RaceConfig config{.input = problem.input, .values = problem.values, .top_p = problem.top_p, .min_p = problem.min_p};
  // Counts of logits take 32 KB of a block: not where an SM has 64 or 100.
  if (problem.top_p && problem.values == RowValues::logits && device.smem_per_sm < (160 << 10)) config.count_bits = 0;
  const int64_t num_rows = problem.num_rows, vecs = problem.vocab_size / (16 / size_of(problem.input)) + 2;
  const bool filters = problem.top_p || problem.min_p, few = num_rows * 32 <= device.num_sms;
  // Two blocks of 512 threads an SM where 64 registers a thread suffice: not for filters of 16-bit rows, nor where more than the race has
  // to be held.
  const bool wide = device.arch.number < 90 || (problem.input != DType::f32 && filters) || (problem.top_p && problem.min_p);
  const bool narrow = !wide && (problem.values == RowValues::probs || !filters || config.counts());
  // With top_p where weights are not counted all rows are read again.
  const bool again = problem.top_p && !config.counts();

  const auto split = [&]() -> RaceSplit {
    const bool large_clusters = device.arch.has_tma() && device.arch.number < 110;  // more than 8 blocks: not on every GPU
    const auto fits = [&](const RaceSplit& s) {
      // Where each launch has as many blocks on an SM; otherwise 19 rows by clusters of 6 took 9.7 us, by 16 7.5, though 39 fit at once.
      const int64_t rows = s.blocks % s.launches == 0 ? clusters_at_once(s.cluster, s.blocks / s.launches, device)
                                                      : clusters_at_once(s.cluster, s.blocks, device) / s.launches;
      return num_rows <= rows && vecs > int64_t(s.cluster) * s.threads && (s.for_all || !(filters || wide || problem.input != DType::f32));
    };
    if (large_clusters && few && vecs > 16 * 512) return {512, 16, 2};
    for (const RaceSplit& s : kRaceSplits) {
      if (!large_clusters || !fits(s)) continue;
      if (again && s.cluster < 8) break;
      return s;
    }
    if (large_clusters && !again) {
      // A block of 512 threads an SM for every row, or two, which have more to tell each other if weights are counted: H100, us at 128 rows
      // with top_p 33.8 and 35.9, of logits 39.2 and 41.8.
      if (num_rows <= device.num_sms) return {512, narrow && !config.counts() && vecs > 2 * 512 ? 2 : 1, 2};
      if (const RaceSplit pairs = {256, 2, 3}; fits(pairs)) return pairs;
    }
    const int32_t threads = few || (narrow && num_rows * 4 > device.num_sms) ? 512 : 256;
    const bool many = wide && filters && (device.arch.number < 90 || problem.min_p);  // registers
    const int32_t of_sm = narrow && threads == 512 ? 1024 : many ? 512 : wide || filters ? 768 : 1280;
    // Pairs of blocks for as many rows as SMs, larger clusters as long as each block has an SM for itself. What is read again is cut into
    // more pieces than run at a time: H100, us at 512 rows in clusters of 1 / 2 / 4 / 8: 250 / 210 / 208 / 245.
    const auto fill = [&](int32_t cluster) {
      if (again) return num_rows * cluster <= int64_t(device.num_sms) * (cluster < 8 ? 16 : 8);
      return num_rows * cluster * threads <= int64_t(device.num_sms) * (cluster == 2 ? 1024 : 512);
    };
    int32_t cluster = 1;
    const int32_t most = !device.arch.has_tma() ? 1 : large_clusters ? 16 : 8;
    while (cluster < most && fill(2 * cluster) && vecs > 2 * int64_t(cluster) * threads) cluster *= 2;
    return {threads, cluster, cluster >= 8 && threads == 256 ? 3 : of_sm / threads};
  }();
  config.threads = split.threads, config.cluster = split.cluster;
  config.blocks = split.threads == 512 && !narrow ? 1 : split.blocks;
  const auto has_room = [&](const RaceConfig& c) { return c.blocks * (c.smem_bytes() + 1024) <= device.smem_per_sm; };
  while (config.blocks > 1 && !has_room(config)) --config.blocks;  // an SM of 64 or 100 KB
  if (!filters) return config;
  // Of a peaked row what top_p may keep is listed: one element in ninety, in some warps more. Not in larger clusters, where the sample
  // takes as long as the list saves: H200, 16 rows, peaked 11.1 instead of 12.3, else 15.0 instead of 13.3.
  if (config.counts() && problem.values == RowValues::probs && config.cluster <= 2 && num_rows * 2 > device.num_sms) {
    RaceConfig listing = config;
    const int64_t of_warp = problem.vocab_size / (int64_t(config.cluster) * config.threads / 32);
    listing.candidates = int32_t(round_up(of_warp / 64 + 32, int64_t(16)));
    if (of_warp < kMostOfWarp && has_room(listing)) config = listing;
  }
  // Finer bins where few blocks share a row, if there is room: one of many rows that must be read again keeps all waiting.
  if (config.counts() && config.cluster <= 2)
    for (RaceConfig finer = config; 2 << finer.count_bits <= config.threads;) {
      ++finer.count_bits;
      if (has_room(finer)) config = finer;
    }
  // Fewer columns: more races again where one does, and fewer of them have an own record to be raised. H200, us with 2 / 4 / 8 / 16
  // columns: top_p of 16 rows (clusters of 16 x 256) 11.6 / 12.0 / 13.3 / -, 24 (4 x 512) - / 13.7 / 14.1 / 15.8, 64 (2 x 512) - / 21.9
  // / 20.7 / 21.7, 128 38 / 31.4 / 29.0 / 30.9, 512 94 / 85.5 / 83.9 / 88.2; of logits 64 - / 27.9 / 25.5 / 25.7, 512 146 / 114 / 102 / 98;
  // min_p of 24 - / 12.4 / 12.4 / 13.2, 64 - / 17.9 / 17.0 / 16.8, 512 87 / 79 / 76 / 72.
  const auto columns = [&]() -> int32_t {
    const bool probs = problem.values == RowValues::probs;
    if (few) return 1;
    if (config.cluster >= 8) return probs && config.counts() ? 2 : 4;
    if (config.cluster > 2 && probs) return 4;
    return config.counts() && (probs || config.cluster > 1) ? 8 : config.threads / 32;
  };
  config.columns = min(columns(), config.threads / 32);
  // With min_p shared memory holds the slices of few rows: H100, us at 4 / 8 / 15 / 24 rows 6.6 / 7.9 / 9.3 / 13.1, else 7.5 / 9.7 / 10.8 /
  // 13.5; not with top_p alone, for then columns are worth more (16 rows 15.6, held 19.3).
  const int64_t chunks = round_up(ceil_div(ceil_div(vecs, int64_t(config.cluster)), int64_t(config.threads)), int64_t(2));
  RaceConfig holding = config;
  holding.chunks = int32_t(chunks), holding.columns = 1;
  if (problem.min_p && config.cluster >= 4 && chunks <= 8 && has_room(holding)) return holding;
  return config;
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_sampling(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  constexpr int64_t kVocabSize = 128256;
  for (int64_t num_rows : {1, 8, 16, 40, 128, 256}) {
    const bool races_alone = num_rows == 40 || num_rows == 128;  // rows that only races spread otherwise than 1, 8, 16 or 256
    const auto tuned = [&](DType dtype, RowValues values) {
      visit(tune(RaceProblem{dtype, values, false, false, num_rows, kVocabSize}, device));
      if (dtype == DType::f32) {
        visit(tune(RaceProblem{dtype, values, true, false, num_rows, kVocabSize}, device));
        visit(tune(RaceProblem{dtype, values, false, true, num_rows, kVocabSize}, device));
      }
      if (races_alone) return;
      visit(tune(TopkSamplingProblem{dtype, values, values == RowValues::probs, num_rows, kVocabSize}, device));
      visit(tune(SamplingProblem{dtype, values, false, false, num_rows, kVocabSize}, device));
    };
    for (DType dtype : {DType::f32, DType::bf16}) tuned(dtype, RowValues::logits);
    tuned(DType::f32, RowValues::probs);
    if (races_alone) continue;
    visit(tune(SamplingProblem{DType::f32, RowValues::logits, true, false, num_rows, kVocabSize}, device));
    visit(tune(SamplingProblem{DType::f32, RowValues::logits, false, true, num_rows, kVocabSize}, device));
  }
}

}  // namespace flashinfer::gpu
