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
  bool top_p = false;
  int64_t num_rows = 0, vocab_size = 0;
};

constexpr RaceConfig tune(const RaceProblem& problem, const DeviceInfo& device) {
  RaceConfig config{.input = problem.input, .values = problem.values, .top_p = problem.top_p};
  const bool clusters = device.arch.has_tma();
  const int64_t vecs = problem.vocab_size / (16 / size_of(problem.input)) + 2;
  // Few rows do not fill the GPU: then the threads of an SM have few vectors each, and wait for little else than their first loads.
  if (problem.num_rows * 16 <= device.num_sms) config.threads = 512;
  // As registers allow.
  const int32_t threads = problem.input == DType::f32 ? (problem.top_p ? 768 : 1280) : problem.top_p ? 512 : 768;
  config.blocks = threads / config.threads;
  const int32_t most = !clusters ? 1 : device.arch.number < 110 ? 16 : 8;  // more than 8 not on every GPU
  // Two blocks an SM; a row that races again under top_p takes twice as long, so there rows are cut into more pieces than run at a time.
  // H100, us at 128 rows with clusters of 2 / 4 / 8: 28 / 33 / 33, top_p 84 / 72 / 66; at 512 with 1 / 2 / 4 / 8: 107 / 103 / 100 / 110,
  // top_p 260 / 210 / 194 / 219.
  const auto blocks = [&](int32_t cluster) { return int64_t(device.num_sms) * (!problem.top_p ? 2 : cluster < 4 ? 16 : 8); };
  while (config.cluster < most && (config.cluster == 1 || problem.num_rows * config.cluster * 2 <= blocks(config.cluster)) &&
         vecs > 2 * int64_t(config.cluster) * config.threads)
    config.cluster *= 2;
  return config;
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_sampling(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  constexpr int64_t kVocabSize = 128256;
  for (int64_t num_rows : {1, 16, 256}) {
    const auto tuned = [&](DType dtype, RowValues values) {
      for (bool top_p : {false, true}) visit(tune(RaceProblem{dtype, values, top_p, num_rows, kVocabSize}, device));
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
