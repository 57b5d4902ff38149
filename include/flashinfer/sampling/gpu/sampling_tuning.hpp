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

constexpr RaceConfig tune(const RaceProblem& problem, const DeviceInfo& device) {
  RaceConfig config{.input = problem.input, .values = problem.values, .top_p = problem.top_p, .min_p = problem.min_p};
  const int64_t vecs = problem.vocab_size / (16 / size_of(problem.input)) + 2;
  // Two blocks of 512 threads an SM where 64 registers a thread suffice. Blocks of 256 where clusters of 16 of them fill the GPU, and where
  // those of 512 would not all begin with the launch before them still there: 8 rows of logits take 7.7 us, with 512 threads 11.9, 4 rows
  // 6.5 and 6.3 (H100).
  const bool filters = problem.top_p || problem.min_p;
  const bool hopper = device.arch.number >= 90, wide = !hopper || problem.input != DType::f32 || (problem.top_p && problem.min_p);
  const bool narrow = !wide && (problem.values == RowValues::probs || !filters);
  config.threads = problem.num_rows * 32 <= device.num_sms || (narrow && problem.num_rows * 4 > device.num_sms) ? 512 : 256;
  int32_t threads = wide ? 768 : 1280;  // of an SM, as registers allow
  if (filters) threads = wide ? 512 : 768;
  if (narrow && config.threads == 512) threads = 1024;
  config.blocks = threads / config.threads;
  const int32_t most = !device.arch.has_tma() ? 1 : device.arch.number < 110 ? 16 : 8;  // more than 8 not on every GPU
  // Pairs of blocks for as many rows as SMs, larger clusters as long as each block has an SM for itself. H100, us at 512 rows with 1 / 2 /
  // 4 blocks a row: 91 (the read alone: 87) / 100 / 101, with top_p 138 / 150 / 189, at 64 with 2 / 4: 16.4 / 22.9. Of logits with top_p
  // all rows are read again, and are cut into more pieces than run at a time: 250 / 210 / 208, with 8 245.
  const bool again = problem.top_p && !config.counts();
  const auto fits = [&](int32_t cluster) {
    if (again) return problem.num_rows * cluster <= int64_t(device.num_sms) * (cluster < 8 ? 16 : 8);
    return problem.num_rows * cluster * config.threads <= int64_t(device.num_sms) * (cluster == 2 ? 1024 : 512);
  };
  while (config.cluster < most && fits(2 * config.cluster) && vecs > 2 * int64_t(config.cluster) * config.threads) config.cluster *= 2;
  if (!filters) return config;
  // H100, us at 1 / 16 / 128 / 512 rows with one / four / a warp's columns: top_p 8.8 / 21.6 / 87 / 228, 8.9 / 19.5 / 54 / 154, 9.6 / 19.6
  // / 50 / 142; min_p 7.8 / 12.8 / 37.8 / 128, 8.6 / 13.9 / 35.6 / 109, 9.1 / 14.3 / 34.4 / 98.
  if (problem.num_rows * 32 > device.num_sms) config.columns = config.cluster < 8 ? config.threads / 32 : 4;
  if (config.cluster < 8) return config;
  // Few rows. Three blocks an SM have room for 21 clusters of 16, two for 14. With min_p shared memory holds a block's slice, with room for
  // the blocks of the next launch: H100, us at 4 / 8 / 16 rows 6.6 / 8.2 / 11.1, else 7.5 / 9.5 / 12.5; not with top_p alone, for then
  // columns are worth more (16 rows 15.6, held 19.3).
  if (config.threads == 256) config.blocks = 3;
  const int64_t chunks = round_up(ceil_div(ceil_div(vecs, int64_t(config.cluster)), int64_t(config.threads)), int64_t(2));
  if (problem.min_p && chunks * config.threads * 16 <= 40 * 1024) {
    config.chunks = int32_t(chunks), config.columns = 1;
    if (!wide && config.threads == 256) config.blocks = 5;
  }
  return config;
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_sampling(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  constexpr int64_t kVocabSize = 128256;
  for (int64_t num_rows : {1, 16, 256}) {
    const auto tuned = [&](DType dtype, RowValues values) {
      visit(tune(RaceProblem{dtype, values, false, false, num_rows, kVocabSize}, device));
      if (dtype == DType::f32) {
        visit(tune(RaceProblem{dtype, values, true, false, num_rows, kVocabSize}, device));
        visit(tune(RaceProblem{dtype, values, false, true, num_rows, kVocabSize}, device));
      }
      visit(tune(TopkSamplingProblem{dtype, values, values == RowValues::probs, num_rows, kVocabSize}, device));
      visit(tune(SamplingProblem{dtype, values, false, false, num_rows, kVocabSize}, device));
    };
    for (DType dtype : {DType::f32, DType::bf16}) tuned(dtype, RowValues::logits);
    tuned(DType::f32, RowValues::probs);
    visit(tune(SamplingProblem{DType::f32, RowValues::logits, true, false, num_rows, kVocabSize}, device));
    visit(tune(SamplingProblem{DType::f32, RowValues::logits, false, true, num_rows, kVocabSize}, device));
  }
}

}  // namespace flashinfer::gpu
