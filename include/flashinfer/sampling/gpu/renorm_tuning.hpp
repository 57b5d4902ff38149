// Host only. The kernels of renorm, for what they are asked for.
#pragma once

#include <flashinfer/sampling/gpu/row_tuning.hpp>
#include <flashinfer/topk/gpu/topk_tuning.hpp>

namespace flashinfer::gpu {

struct RenormProblem {
  DType input = DType::f32, output = DType::f32;
  RowValues values = RowValues::probs;
  bool mixed = false;
  int64_t num_rows = 0, vocab_size = 0;
};

constexpr RenormConfig tune(const RenormProblem& problem, const DeviceInfo& device) {
  // 64 registers a thread are not enough for rows left over.
  const RowSplit split = split_rows(problem.input, problem.num_rows, problem.vocab_size, device, problem.mixed ? 256 : 512);
  return {.input = problem.input,
          .output = problem.output,
          .values = problem.values,
          .mixed = problem.mixed,
          .threads = split.threads,
          .cluster = split.cluster,
          .chunks = split.chunks,
          .blocks = split.blocks};
}

/// Rows are spread as top_k spreads them.
constexpr TopkRenormConfig tune_topk(const RenormProblem& problem, const DeviceInfo& device) {
  const TopkConfig topk = tune(TopkProblem{problem.input, problem.num_rows, int32_t(problem.vocab_size), kMostTopk / 2}, device);
  return {problem.input, problem.output, problem.values, topk.threads, topk.vecs, topk.stages, topk.cluster};
}

/// A block of all the threads that an SM has registers for takes a row, with as much of it in shared memory as there is room for. Where
/// rows are fewer than SMs, clusters, as large as they run all at the same time.
constexpr ToppRenormConfig tune_topp(const RenormProblem& problem, const DeviceInfo& device) {
  const int64_t vecs = problem.vocab_size / (16 / size_of(problem.input)) + 2;  // a row may begin and end within a vector
  ToppRenormConfig config{.input = problem.input, .output = problem.output};
  const int32_t most = !device.arch.has_tma() ? 1 : device.arch.number < 110 ? 16 : 8;  // more than 8 not on every GPU
  // H200, 16 / 20 / 32 rows: by clusters of 6 / 5 / 3 16.2 / 18.8 / 24.5 us, of 4 / 4 / 2 19.2 / 19.5 / 33.3.
  for (int32_t cluster : {2, 3, 4, 5, 6, 8, 16})
    if (cluster <= most && problem.num_rows <= clusters_at_once(cluster, 1, device) && 2 * vecs > int64_t(cluster) * 1024)
      config.cluster = cluster;
  // 512 threads meet sooner than 1024, and a quarter of a row is not more than they copy at once (H100, 16 to 28 rows: a microsecond less;
  // halves 0 to 7 more). For 16-bit rows 64 registers a thread are too few.
  if (config.cluster > 2 || problem.input != DType::f32) config.threads = 512;
  const auto needed = [&] { return ceil_div(ceil_div(vecs, int64_t(config.cluster)), int64_t(config.threads)); };  // chunks
  const auto fits = [&](const ToppRenormConfig& c) {
    return c.smem_bytes() <= min(device.smem_per_block, device.smem_per_sm / c.blocks - 1024);
  };
  // Another look at a row that does not stay in shared memory costs as much as the first. A row of 128256 normal logits of deviation 3 has
  // 6600 candidates under top_p 0.9, 9000 where it is unusual: room for one element in eight, or for one in fourteen; of a pair of blocks,
  // which may have most of them in one, for one in four. Two blocks an SM, one of which copies or writes while the other thinks (H200, 512
  // rows 159 us; one of 1024 threads 185), where rows are many. By pairs 64 rows 28.5 us, without lists 38.4, flat ones 52.4 and 50.2; by
  // clusters of 3 / 6 what is in shared memory is soon looked at again: 22.0 / 17.0 us, without 23.5 / 15.8, flat ones 38 / 26 and 34 / 23.
  const int64_t of_warp = ceil_div(ceil_div(vecs, int64_t(config.cluster)), int64_t(512)) * 32 * (16 / size_of(problem.input));
  if (config.cluster <= 2 && of_warp > (config.cluster > 1 ? 1024 : 2048) && of_warp < kMostOfWarp) {
    const auto listing = [&](int32_t blocks) {
      ToppRenormConfig c = config;
      c.threads = 512, c.blocks = blocks, c.chunks = 4;
      c.candidates = int32_t(round_up(of_warp / (c.cluster > 1 ? 4 : 8), int64_t(8)));
      while (!fits(c) && c.candidates > of_warp / 14) c.candidates -= 8;
      return c;
    };
    // More than 64 registers a thread are wanted by 16-bit rows, and by all from sm_100 on.
    const bool pairs = problem.num_rows > device.num_sms && problem.input == DType::f32 && device.arch.number < 100;
    if (const ToppRenormConfig two = listing(2); pairs && fits(two))
      config = two;
    else if (const ToppRenormConfig one = listing(1); fits(one))
      config = one;
  }
  config.chunks = 0;
  const int32_t together = config.candidates > 0 ? 2 : 1;
  for (ToppRenormConfig larger = config; fits(larger) && larger.chunks <= round_up(needed(), int64_t(2)); larger.chunks += together)
    config = larger;
  config.held = config.candidates == 0 && config.chunks >= needed();
  return config;
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_renorm(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (int64_t num_rows : {1, 8, 16, 64, 256}) {
    visit(tune_topp({DType::f32, DType::f32, RowValues::probs, false, num_rows, 128256}, device));
    if (num_rows == 64) continue;  // which only this one spreads otherwise than 16 or 256
    const auto tuned = [&](DType dtype, RowValues values, bool mixed) {
      const RenormProblem problem{dtype, dtype, values, mixed, num_rows, 128256};
      visit(tune(problem, device));
      visit(tune_topk(problem, device));
    };
    for (bool mixed : {false, true}) tuned(DType::f32, RowValues::probs, mixed);
    for (DType dtype : {DType::f32, DType::bf16}) tuned(dtype, RowValues::logits, false);
  }
}

}  // namespace flashinfer::gpu
