// The kernels of sampling, softmax and renorm, emulated: clusters of blocks, rings of chunks that run ahead into the next rows, rows that
// begin anywhere. What is kept and drawn must be what the CPU twin keeps and draws, exactly.
#include <flashinfer/sampling/renorm.hpp>
#include <flashinfer/sampling/sampling.hpp>
#include <flashinfer/sampling/softmax.hpp>
#include <flashinfer/sampling/speculative.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <cpp_tests/gpu/emulation/emulator.hpp>
#include <cpp_tests/gpu/sampling_rows.hpp>

#include <flashinfer/sampling/gpu/race_kernel.cuh>
#include <flashinfer/sampling/gpu/renorm_kernel.cuh>
#include <flashinfer/sampling/gpu/sampling_kernel.cuh>
#include <flashinfer/sampling/gpu/softmax_kernel.cuh>
#include <flashinfer/sampling/gpu/speculative_kernel.cuh>
#include <flashinfer/sampling/gpu/topk_renorm_kernel.cuh>
#include <flashinfer/sampling/gpu/topk_sampling_kernel.cuh>
#include <flashinfer/sampling/gpu/topp_renorm_kernel.cuh>

namespace flashinfer {
namespace {

template <SamplingConfig kConfig>
void expect_same_tokens(int64_t num_rows, int64_t vocab_size, uint32_t seed) {
  using T = number_t<kConfig.input>;
  constexpr bool kProbs = kConfig.values == RowValues::probs;
  Rows<T> rows(num_rows, vocab_size, kProbs, seed, int(seed % 4));
  struct Case {
    int32_t k;
    float p, min_p, temperature;
    bool joint;
  };
  uint32_t at = 0;
  for (const Case& c :
       {Case{0, 1, 0, 1, false}, Case{1, 1, 0, 1, false}, Case{7, 1, 0, 0.7f, false}, Case{50, 0.9f, 0, 1, false},
        Case{50, 0.6f, 0, 1, true}, Case{0, 0.9f, 0, 1, false}, Case{0, 0.999f, 0, 1, false}, Case{0, 0.3f, 0.01f, 0.5f, false},
        Case{0, 1, 0.1f, 1, false}, Case{int32_t(vocab_size / 2), 0.95f, 0, 1, false}, Case{int32_t(vocab_size - 1), 0.5f, 0.001f, 2, true},
        Case{int32_t(vocab_size / 3), 1, 0.002f, 1, false}, Case{0, 0, 0, 1, false}, Case{0, 1, 0, 0, false}}) {
    if (++at % 2 == seed % 2) continue;  // the next config has it
    SamplingParams p;
    p.input = rows.row(0);
    p.input_stride = rows.stride;
    p.num_rows = p.num_inputs = num_rows;
    p.vocab_size = int32_t(vocab_size);
    p.temperature.value = c.temperature, p.top_k.value = c.k, p.top_p.value = c.p, p.min_p.value = c.min_p;
    p.joint = c.joint;
    p.seed.value = seed, p.offset.value = 3;
    struct Outputs {
      std::vector<int32_t> tokens, top_tokens;
      std::vector<char> valid;
      std::vector<float> logprob, top_logprobs, probs;
    };
    Outputs out, twin;
    auto run = [&](Outputs& o, bool on_cpu) {
      SamplingParams q = p;
      o.tokens.assign(size_t(num_rows), -7), o.valid.assign(size_t(num_rows), 7);
      q.tokens = o.tokens.data(), q.valid = reinterpret_cast<bool*>(o.valid.data());
      if (kConfig.extras) {
        q.num_top = int32_t(std::min<int64_t>(vocab_size, seed % 2 ? 5 : 100));
        q.raw_logprobs = seed % 3 == 0;
        q.probs_stride = vocab_size + seed % 5;
        o.logprob.assign(size_t(num_rows), NAN), o.probs.assign(size_t(num_rows * q.probs_stride), NAN);
        o.top_tokens.assign(size_t(num_rows * q.num_top), -7), o.top_logprobs.assign(size_t(num_rows * q.num_top), NAN);
        q.logprob = o.logprob.data(), q.probs = o.probs.data(), q.top_tokens = o.top_tokens.data(), q.top_logprobs = o.top_logprobs.data();
      }
      if (on_cpu) return cpu::sampling(q, kConfig.values, kConfig.input);
      const unsigned clusters = unsigned(std::min<int64_t>(num_rows, 2));
      emulation::Block::run_grid(
          clusters * kConfig.cluster, kConfig.threads, size_t(kConfig.split().smem_bytes()), seed, [&] { SamplingKernel<kConfig>::run(q); },
          kConfig.cluster);
    };
    run(out, false);
    run(twin, true);
    const std::string what = "k " + std::to_string(c.k) + " p " + std::to_string(c.p) + " min_p " + std::to_string(c.min_p) + " joint " +
                             std::to_string(c.joint);
    EXPECT_EQ(out.tokens, twin.tokens) << what;
    EXPECT_EQ(out.valid, twin.valid) << what;
    EXPECT_EQ(out.top_tokens, twin.top_tokens) << what;
    expect_same(out.logprob, twin.logprob, what);
    expect_same(out.top_logprobs, twin.top_logprobs, what);
    expect_same(out.probs, twin.probs, what);
  }
}

/// What runs over rows and writes rows.
template <class Kernel, class T, class Out, class Params, class Split, class Cpu>
void expect_same_rows(Rows<T>& rows, Params p, const Split& split, const Cpu& cpu, const std::string& what) {
  const int64_t stride = rows.vocab_size + 1;
  std::vector<Out> out(size_t(rows.num_rows * stride), from_float<Out>(NAN)), twin = out;
  p.input = rows.row(0), p.input_stride = rows.stride, p.output_stride = stride;
  p.num_rows = rows.num_rows, p.vocab_size = int32_t(rows.vocab_size);
  p.output = twin.data();
  cpu(p);
  p.output = out.data();
  emulation::Block::run_grid(
      unsigned(std::min<int64_t>(rows.num_rows, 2)) * split.cluster, split.threads, size_t(split.smem_bytes()), 1, [&] { Kernel::run(p); },
      split.cluster);
  expect_same(out, twin, what);
}

template <SoftmaxConfig kConfig>
void expect_same_softmax(int64_t num_rows, int64_t vocab_size, uint32_t seed) {
  using T = number_t<kConfig.input>;
  Rows<T> rows(num_rows, vocab_size, false, seed, int(seed % 4));
  for (float temperature : {1.0f, 0.3f, 2.5f, 0.0f}) {
    SoftmaxParams p;
    p.temperature.value = temperature;
    expect_same_rows<SoftmaxKernel<kConfig>, T, float>(
        rows, p, kConfig, [](const SoftmaxParams& q) { cpu::softmax(q, kConfig.input); }, "temperature " + std::to_string(temperature));
  }
}

template <RenormConfig kConfig>
void expect_same_renorm(int64_t num_rows, int64_t vocab_size, uint32_t seed) {
  using T = number_t<kConfig.input>;
  Rows<T> rows(num_rows, vocab_size, kConfig.values == RowValues::probs, seed, int(seed % 4));
  for (const auto& [k, top_p] :
       {std::pair<int, float>{50, 1}, {1, 1}, {int(vocab_size / 2), 1}, {int(vocab_size), 1}, {0, 0.9f}, {0, 0.2f}, {0, 1}, {70, 0.8f}}) {
    RenormParams p;
    p.top_k.value = k, p.top_p.value = top_p;
    expect_same_rows<RenormKernel<kConfig>, T, number_t<kConfig.output>>(
        rows, p, kConfig.split(), [](const RenormParams& q) { cpu::renorm(q, kConfig.values, kConfig.input, kConfig.output); },
        "k " + std::to_string(k) + " p " + std::to_string(top_p));
  }
}

TEST(SamplingKernel, RowsInL2) {
  expect_same_tokens<SamplingConfig{.values = kLogits, .threads = 256}>(9, 5000, 1);
  expect_same_tokens<SamplingConfig{.values = kProbs, .threads = 256}>(9, 4099, 2);
  expect_same_tokens<SamplingConfig{.input = DType::bf16, .values = kLogits, .threads = 256}>(9, 3001, 3);
}

TEST(SamplingKernel, Clusters) {
  expect_same_tokens<SamplingConfig{.values = kLogits, .threads = 256, .cluster = 2, .chunks = 5}>(9, 6001, 4);
  expect_same_tokens<SamplingConfig{.values = kProbs, .threads = 256, .cluster = 4, .chunks = 7}>(9, 9000, 5);
  expect_same_tokens<SamplingConfig{.input = DType::f16, .values = kLogits, .threads = 256, .cluster = 2, .chunks = 3}>(9, 4777, 6);
  expect_same_tokens<SamplingConfig{.values = kProbs, .threads = 256, .cluster = 2, .chunks = 2}>(5, 17, 7);
}

/// By a small top_k, where the types agree in place too. With a top_k of their own, RenormKernel filters the other rows.
template <TopkRenormConfig kConfig, RenormConfig kOthers>
void expect_same_topk_renorm(int64_t num_rows, int64_t vocab_size, uint32_t seed) {
  using T = number_t<kConfig.input>;
  using Out = number_t<kConfig.output>;
  for (int i = 0; i < (std::is_same_v<T, Out> ? 6 : 3); ++i) {
    const bool in_place = i >= 3;
    const int32_t k = i % 3 == 0 ? 1 : i % 3 == 1 ? 300 : 0;
    Rows<T> rows(num_rows, vocab_size, kConfig.values == RowValues::probs, seed, int(seed % 4));
    std::vector<int32_t> of_rows(static_cast<size_t>(num_rows), k);
    const bool mixed = k == 0;
    if (mixed)
      for (size_t r = 0; r < of_rows.size(); ++r) of_rows[r] = int32_t(r % 3 == 0 ? vocab_size / 2 : r % 3 * 30);
    RenormParams p;
    p.input = rows.row(0), p.input_stride = rows.stride, p.num_rows = num_rows, p.vocab_size = int32_t(vocab_size);
    p.top_k.values = of_rows.data(), p.mixed = mixed;
    p.output_stride = in_place ? rows.stride : vocab_size + 3;
    std::vector<Out> twin(size_t(num_rows * p.output_stride), from_float<Out>(5)), out = twin;
    p.output = twin.data();
    cpu::renorm(p, kConfig.values, kConfig.input, kConfig.output);
    p.output = in_place ? static_cast<void*>(rows.row(0)) : out.data();
    emulation::Block::run_grid(
        unsigned(num_rows) * kConfig.cluster, kConfig.threads, size_t(kConfig.smem_bytes()), seed,
        [&] { TopkRenormKernel<kConfig>::run(p); }, kConfig.cluster);
    if (mixed)
      emulation::Block::run_grid(
          unsigned(std::min<int64_t>(num_rows, 2)) * kOthers.cluster, kOthers.threads, size_t(kOthers.split().smem_bytes()), seed,
          [&] { RenormKernel<kOthers>::run(p); }, kOthers.cluster);
    for (int64_t r = 0; r < num_rows; ++r) {
      const Out* row = static_cast<const Out*>(p.output) + r * p.output_stride;
      expect_same(std::vector<Out>(row, row + vocab_size),
                  std::vector<Out>(twin.data() + r * p.output_stride, twin.data() + r * p.output_stride + vocab_size),
                  "k " + std::to_string(k) + ", row " + std::to_string(r) + (in_place ? ", in place" : ""));
    }
  }
}

TEST(TopkRenormKernel, MatchesItsTwin) {
  expect_same_topk_renorm<TopkRenormConfig{.values = kProbs, .cluster = 6},
                          RenormConfig{.values = kProbs, .mixed = true, .threads = 256, .cluster = 2, .chunks = 9}>(9, 16003, 5);
  expect_same_topk_renorm<TopkRenormConfig{.values = kProbs}, RenormConfig{.values = kProbs, .mixed = true, .threads = 256}>(9, 2003, 1);
  expect_same_topk_renorm<TopkRenormConfig{.values = kLogits, .vecs = 3, .stages = 0, .cluster = 4},
                          RenormConfig{.values = kLogits, .mixed = true, .threads = 256, .cluster = 2, .chunks = 6}>(9, 4001, 2);
  expect_same_topk_renorm<TopkRenormConfig{
                              .input = DType::bf16, .output = DType::bf16, .values = kLogits, .vecs = 3, .stages = 0, .cluster = 2},
                          RenormConfig{.input = DType::bf16, .output = DType::bf16, .values = kLogits, .mixed = true, .threads = 256}>(
      9, 3001, 3);
  expect_same_topk_renorm<TopkRenormConfig{.input = DType::f16, .output = DType::f32, .values = kProbs, .vecs = 3, .stages = 0},
                          RenormConfig{.input = DType::f16, .output = DType::f32, .values = kProbs, .mixed = true, .threads = 256}>(9, 1777,
                                                                                                                                    4);
}

/// Rows that the first top_k are drawn from. With a top_k of their own three kernels take turns: each draws its rows and no others.
template <TopkSamplingConfig kConfig, SamplingConfig kOthers>
void expect_same_topk(int64_t num_rows, int64_t vocab_size, uint32_t seed) {
  using T = number_t<kConfig.input>;
  Rows<T> rows(num_rows, vocab_size, kConfig.values == RowValues::probs, seed, int(seed % 4));
  struct Case {
    int32_t k;
    float p, min_p, temperature;
  };
  for (const Case& c : {Case{1, 1, 0, 1}, Case{7, 1, 0, 0.7f}, Case{50, 0.9f, 0, 1}, Case{50, 0.3f, 0.01f, 0.5f}, Case{300, 0.95f, 0, 2},
                        Case{512, 0.5f, 0.1f, 1}, Case{40, 0, 0, 1}, Case{40, 0.9f, 0, 0}, Case{100, 1, 2, 1}, Case{0, 0.8f, 0, 1}}) {
    if (kConfig.joint && c.k > 0 && (c.p == 1 || c.p == 0 || c.temperature == 0)) continue;  // the same as without
    if (!kConfig.joint && c.k > 0 && uint32_t(c.k) % 3 != seed % 3) continue;                // each by some config
    std::vector<int32_t> k(static_cast<size_t>(num_rows), c.k);
    const bool mixed = c.k == 0;
    const std::vector<float> temperature = {0.7f, 1, 0, 1.5f, 1, -1, 1, 1, 0};
    if (mixed)
      for (size_t r = 0; r < k.size(); ++r) k[r] = int32_t(r % 4 == 3 ? vocab_size : r % 4 == 2 ? vocab_size / 2 : r % 4 * 30);
    std::vector<int64_t> tokens[2];
    std::vector<char> valid[2];
    for (int i = 0; i < 2; ++i) {
      tokens[i].assign(size_t(num_rows), -7), valid[i].assign(size_t(num_rows), 7);
      SamplingParams p;
      p.input = rows.row(0), p.input_stride = rows.stride, p.num_rows = p.num_inputs = num_rows, p.vocab_size = int32_t(vocab_size);
      p.tokens = tokens[i].data(), p.tokens_64 = true, p.valid = reinterpret_cast<bool*>(valid[i].data());
      p.seed.value = seed, p.offset.value = 5;
      p.temperature.value = c.temperature, p.top_k.values = k.data(), p.top_p.value = c.p, p.min_p.value = c.min_p;
      p.mixed = mixed, p.joint = kConfig.joint;
      if (mixed && kConfig.values == kLogits) p.temperature.values = temperature.data();
      if (i == 0) {
        cpu::sampling(p, kConfig.values, kConfig.input);
        continue;
      }
      emulation::Block::run_grid(
          unsigned(num_rows) * kConfig.cluster, kConfig.threads, size_t(kConfig.smem_bytes()), seed,
          [&] { TopkSamplingKernel<kConfig>::run(p); }, kConfig.cluster);
      if (!mixed) continue;
      for (size_t r = 0; r < k.size(); ++r) EXPECT_EQ(tokens[i][r] != -7, p.sampler_of(int64_t(r)) == RowSampler::topk) << r;
      constexpr RaceConfig kRace{.input = kConfig.input, .values = kConfig.values, .top_p = true, .min_p = true};
      emulation::Block::run_grid(unsigned(num_rows), kRace.threads, size_t(kRace.smem_bytes()), seed, [&] { RaceKernel<kRace>::run(p); });
      for (size_t r = 0; r < k.size(); ++r) EXPECT_EQ(tokens[i][r] != -7, p.sampler_of(int64_t(r)) != RowSampler::filter) << r;
      emulation::Block::run_grid(
          unsigned(std::min<int64_t>(num_rows, 2)) * kOthers.cluster, kOthers.threads, size_t(kOthers.split().smem_bytes()), seed,
          [&] { SamplingKernel<kOthers>::run(p); }, kOthers.cluster);
    }
    const std::string what = "k " + std::to_string(c.k) + " p " + std::to_string(c.p) + " min_p " + std::to_string(c.min_p);
    EXPECT_EQ(tokens[0], tokens[1]) << what;
    EXPECT_EQ(valid[0], valid[1]) << what;
  }
}

TEST(TopkSamplingKernel, MatchesItsTwin) {
  constexpr SamplingConfig kLogitsInL2{.values = kLogits, .mixed = true, .threads = 256},
      kProbsInL2{.values = kProbs, .mixed = true, .threads = 256};
  constexpr SamplingConfig kClusters{.values = kLogits, .mixed = true, .threads = 256, .cluster = 2, .chunks = 6};
  expect_same_topk<TopkSamplingConfig{.values = kLogits}, kClusters>(9, 3003, 1);
  expect_same_topk<TopkSamplingConfig{.values = kProbs, .vecs = 3, .stages = 0}, kProbsInL2>(9, 3099, 2);
  expect_same_topk<TopkSamplingConfig{.values = kLogits, .vecs = 8, .stages = 0, .cluster = 4}, kLogitsInL2>(9, 5001, 3);
  expect_same_topk<TopkSamplingConfig{.input = DType::bf16, .values = kLogits, .vecs = 3, .stages = 0, .cluster = 2},
                   SamplingConfig{.input = DType::bf16, .values = kLogits, .mixed = true, .threads = 256}>(9, 7001, 4);
  expect_same_topk<TopkSamplingConfig{.input = DType::f16, .values = kProbs, .threads = 1024, .vecs = 3, .stages = 0},
                   SamplingConfig{.input = DType::f16, .values = kProbs, .mixed = true, .threads = 256}>(9, 1777, 5);
}

/// top_p of the whole row, whose mass is summed on the way, and exactly where that decides: in rows of ties.
TEST(TopkSamplingKernel, JointTopP) {
  constexpr SamplingConfig kLogitsInL2{.values = kLogits, .mixed = true, .threads = 256};
  constexpr SamplingConfig kProbsInL2{.values = kProbs, .mixed = true, .threads = 256};
  expect_same_topk<TopkSamplingConfig{.values = kLogits, .joint = true, .cluster = 6}, kLogitsInL2>(9, 3003, 6);
  expect_same_topk<TopkSamplingConfig{.values = kProbs, .joint = true}, kProbsInL2>(9, 2099, 7);
  expect_same_topk<TopkSamplingConfig{.values = kProbs, .joint = true, .vecs = 8, .stages = 0, .cluster = 4}, kProbsInL2>(9, 3001, 8);
  expect_same_topk<TopkSamplingConfig{.input = DType::bf16, .values = kLogits, .joint = true, .vecs = 3, .stages = 0},
                   SamplingConfig{.input = DType::bf16, .values = kLogits, .mixed = true, .threads = 256}>(9, 999, 9);
}

/// Requests that accept all, some and nothing, whose target equals the draft, and whose tokens are out of range.
template <SpeculativeConfig kConfig>
void expect_same_chains(int64_t batch_size, int num_steps, int64_t vocab_size, uint32_t seed) {
  Rows<float> draft(batch_size * num_steps, vocab_size, true, 9 * seed),
      target(batch_size * (num_steps + 1), vocab_size, true, 9 * seed + 3);
  ASSERT_EQ(draft.stride, vocab_size);
  std::mt19937 random(seed);
  std::vector<int64_t> proposals(size_t(batch_size * num_steps));
  for (int64_t b = 0; b < batch_size; ++b)
    for (int i = 0; i < num_steps; ++i) {
      float* q = target.row(b * (num_steps + 1) + i);
      float* p = draft.row(b * num_steps + i);
      proposals[size_t(b * num_steps + i)] = random() % 9 ? int64_t(random() % size_t(vocab_size)) : random() % 2 ? -1 : vocab_size;
      if (b % 4 == 0) std::copy_n(q, vocab_size, p);
      if (b % 4 == 1) std::fill_n(p, vocab_size, 0.0f);
    }
  SpeculativeParams p;
  p.draft_probs = draft.row(0), p.target_probs = target.row(0), p.draft_tokens = proposals.data(), p.draft_tokens_64 = true;
  p.draft_step_stride = p.target_step_stride = vocab_size;
  p.draft_batch_stride = num_steps * vocab_size, p.target_batch_stride = (num_steps + 1) * vocab_size;
  p.batch_size = batch_size, p.num_steps = num_steps, p.vocab_size = int32_t(vocab_size);
  p.seed.value = seed;
  std::vector<int32_t> tokens[2], accepted[2], emitted[2];
  for (int i = 0; i < 2; ++i) {
    tokens[i].assign(size_t(batch_size * (num_steps + 1)), -7), accepted[i].assign(size_t(batch_size), 3),
        emitted[i].assign(size_t(batch_size), 4);
    p.tokens = tokens[i].data(), p.accepted = accepted[i].data(), p.emitted = emitted[i].data();
    if (i == 0)
      cpu::chain_speculative_sampling(p);
    else
      emulation::Block::run_grid(
          unsigned(batch_size) * kConfig.cluster, kConfig.threads, SpeculativeConfig::kSmemBytes, seed,
          [&] { SpeculativeKernel<kConfig>::run(p); }, kConfig.cluster);
  }
  EXPECT_EQ(tokens[0], tokens[1]);
  EXPECT_EQ(accepted[0], accepted[1]);
  EXPECT_EQ(emitted[0], emitted[1]);
}

TEST(SpeculativeKernel, MatchesItsTwin) {
  expect_same_chains<SpeculativeConfig{.threads = 256, .cluster = 1}>(9, 3, 1003, 1);
  expect_same_chains<SpeculativeConfig{.threads = 256, .cluster = 4}>(9, 5, 6000, 2);
  expect_same_chains<SpeculativeConfig{.threads = 256, .cluster = 2}>(5, 0, 77, 3);
}

TEST(SamplingKernel, LogProbabilities) {
  expect_same_tokens<SamplingConfig{.values = kLogits, .extras = true, .threads = 256, .cluster = 2, .chunks = 5}>(9, 4003, 8);
  expect_same_tokens<SamplingConfig{.input = DType::bf16, .values = kProbs, .extras = true, .threads = 256}>(9, 2049, 9);
  expect_same_tokens<SamplingConfig{.values = kProbs, .extras = true, .threads = 256, .cluster = 4, .chunks = 3}>(6, 50, 12);
}

TEST(SoftmaxKernel, MatchesItsTwin) {
  expect_same_softmax<SoftmaxConfig{.threads = 256, .cluster = 6, .chunks = 2}>(9, 5001, 1);
  expect_same_softmax<SoftmaxConfig{.input = DType::bf16, .threads = 256}>(9, 5001, 2);
  expect_same_softmax<SoftmaxConfig{.input = DType::f16, .threads = 256, .cluster = 4, .chunks = 2}>(9, 8192, 3);
  expect_same_softmax<SoftmaxConfig{.threads = 128, .cluster = 2, .chunks = 5}>(9, 5101, 4);
  expect_same_softmax<SoftmaxConfig{.input = DType::bf16, .widens = true, .threads = 256, .cluster = 2, .chunks = 2}>(9, 8003, 5);
  expect_same_softmax<SoftmaxConfig{.input = DType::f16, .widens = true, .threads = 128, .cluster = 2, .chunks = 5}>(9, 5101, 6);
}

TEST(RenormKernel, MatchesItsTwin) {
  expect_same_renorm<RenormConfig{.values = kProbs, .threads = 256, .cluster = 2, .chunks = 5}>(9, 5001, 1);
  expect_same_renorm<RenormConfig{.values = kLogits, .threads = 256, .cluster = 4, .chunks = 5}>(9, 12288, 2);
  expect_same_renorm<RenormConfig{.input = DType::bf16, .output = DType::bf16, .values = kLogits, .threads = 256}>(9, 5001, 3);
  expect_same_renorm<RenormConfig{.input = DType::f16, .output = DType::f32, .values = kProbs, .threads = 256}>(9, 4001, 4);
}

/// By top_p alone, another share in each row, to another place and, where the types agree, in place. Rows that do not sum to one have their
/// boundary where the bins do not expect it; `scale` 0: rows of few values, negative and infinite ones among them; -1: each the largest of
/// its bin; -2: all in one bin, of many values.
template <ToppRenormConfig kConfig>
void expect_same_topp_renorm(int64_t vocab_size, uint32_t seed) {
  using T = number_t<kConfig.input>;
  using Out = number_t<kConfig.output>;
  constexpr int64_t kRows = 9;
  constexpr float top_p[][size_t(kRows)] = {{0.9f, 0.5f, 0.9f, 0.3f, 0.99f, 0.6f, 0.9f, 0.8f, 0.9f},
                                            {0.99995f, 0.9999f, 0.5f, 0.9999999f, 0.0f, 0.1f, 1.0f, -1.0f, 2.0f},
                                            {0.999f, 1.0f, 0.01f, 1e-9f, 0.7f, 0.97f, NAN, 0.5f, 0.0f}};
  uint32_t turn = seed;
  for (float scale : {1.0f, 3000.0f, 1e7f, 1e-9f, 0.0f, -1.0f, -2.0f, -3.0f, -4.0f}) {
    if (scale < 0 && !std::is_same_v<T, float>) continue;
    if (scale == -3 && (kConfig.cluster == 1 || vocab_size < 4096)) continue;
    if (scale == -4 && vocab_size < 4096) continue;
    const float* const shares = top_p[scale < 0 ? 0 : turn++ % 3];
    if (kConfig.cluster > 2 && scale > 1) continue;  // slow
    if (kSanitized && scale != 1 && scale != 0 && scale > -2) continue;
    Rows<T> rows(kRows, vocab_size, true, seed, int(seed % 4));
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t i = 0; i < vocab_size && scale != 1; ++i) {
        const float x = to_float(rows.row(r)[i]);
        const float last = bit_cast<float>(bit_cast<uint32_t>(x) | 0xffffu);
        const float place = float((i * 7919) % 50021), in_one_bin = (1 + 1e-7f * place) / float(vocab_size);
        const float in_five_bins = (1 + 8e-7f * place) / float(vocab_size);
        const float of_few_values = x > 0 ? std::exp2(2 * std::round(std::log2(x) / 2)) : x;
        rows.row(r)[i] = from_float<T>(scale > 0     ? x * scale
                                       : scale == -1 ? last
                                       : scale == -2 ? in_one_bin
                                       : scale == -3 ? in_five_bins
                                       : scale == -4 ? of_few_values
                                                     : float((i * 7 + r) % (3 + r)) / 8 - 0.25f);
      }
    if (scale == 0 && vocab_size > 4)
      rows.row(1)[3] = rows.row(1)[vocab_size - 1] = from_float<T>(INFINITY), rows.row(2)[4] = from_float<T>(NAN);
    RenormParams p;
    p.input = rows.row(0), p.input_stride = rows.stride, p.num_rows = kRows, p.vocab_size = int32_t(vocab_size);
    p.top_p.values = shares;
    const int64_t stride = vocab_size + 3;
    p.output_stride = stride;
    std::vector<Out> twin(size_t(kRows * stride), from_float<Out>(5)), out = twin;
    p.output = twin.data();
    cpu::renorm(p, RowValues::probs, kConfig.input, kConfig.output);
    for (bool in_place : {false, true}) {
      if (in_place && !std::is_same_v<T, Out>) continue;
      p.output = in_place ? static_cast<void*>(rows.row(0)) : out.data();
      p.output_stride = in_place ? rows.stride : stride;
      emulation::Block::run_grid(
          unsigned(kRows) * kConfig.cluster, kConfig.threads, size_t(kConfig.smem_bytes()), seed,
          [&] { ToppRenormKernel<kConfig>::run(p); }, kConfig.cluster);
      for (int64_t r = 0; r < kRows; ++r) {
        const Out* row = static_cast<const Out*>(p.output) + r * p.output_stride;
        const Out* expected = twin.data() + r * stride;
        expect_same(std::vector<Out>(row, row + vocab_size), std::vector<Out>(expected, expected + vocab_size),
                    "scale " + std::to_string(scale) + ", row " + std::to_string(r) + ", p " + std::to_string(shares[r]));
        // What lies between rows is nobody's.
        for (int64_t i = vocab_size; i < stride && !in_place; ++i) ASSERT_EQ(to_float(row[i]), 5);
      }
    }
  }
}

TEST(ToppRenormKernel, MatchesItsTwin) {
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .chunks = 3}>(8011, 1);
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .cluster = 2, .chunks = 1}>(17, 2);
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .chunks = 2}>(1, 6);
}
TEST(ToppRenormKernel, Clusters) {
  for (uint32_t seed : {2, 102}) {  // who is late where blocks must leave together is chance
    expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .cluster = 2, .chunks = 2}>(5003, seed);
    expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .cluster = 3, .chunks = 1}>(4096, seed + 1);
  }
  // More than the ring holds.
  if (!kSanitized) expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .cluster = 2, .chunks = 1}>(10001, 5);
  // Equal elements in place: some blocks are done before others have read where the ties end.
  if (!kSanitized) expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .cluster = 6, .chunks = 2}>(10112, 11);
}
/// Slices that shared memory holds as a whole.
TEST(ToppRenormKernel, HeldSlices) {
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .chunks = 4, .held = true}>(8011, 4);
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .cluster = 3, .chunks = 2, .held = true}>(12279, 3);
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .cluster = 4, .chunks = 1, .held = true}>(18, 2);
  expect_same_topp_renorm<ToppRenormConfig{
      .input = DType::bf16, .output = DType::bf16, .threads = 512, .cluster = 2, .chunks = 2, .held = true}>(9005, 7);
  if (!kSanitized) expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .cluster = 6, .chunks = 1, .held = true}>(10112, 11);
}
/// Rows of equal elements of which the last one kept lies where one block's slice ends and another's begins.
TEST(ToppRenormKernel, TiesAtTheEdgeOfASlice) {
  constexpr ToppRenormConfig kConfig{.threads = 512, .cluster = 4, .chunks = 1};
  constexpr int64_t kRows = 9, kVocabSize = 6001;
  for (int first = kSanitized ? 3 : 0; first < 4; ++first)
    for (int edge = 1; edge < kConfig.cluster; ++edge) {
      std::vector<float> x(size_t(kRows * kVocabSize + 8), 1.0f / float(kVocabSize)), twin(size_t(kRows * kVocabSize), 5), out = twin;
      float* const input = x.data() + (4 - int(uintptr_t(x.data()) % 16 / 4) + first) % 4;
      float top_p[size_t(kRows)];
      for (int64_t r = 0; r < kRows; ++r) {
        const int64_t skip = int64_t(uintptr_t(input + r * kVocabSize) % 16 / 4);
        const int64_t of_slice = ceil_div(ceil_div(kVocabSize + skip, int64_t(4)), int64_t(kConfig.cluster)) * 4;
        top_p[r] = (float(edge * of_slice - skip + r - 4) - 0.5f) / float(kVocabSize);
      }
      RenormParams p;
      p.input = input, p.input_stride = p.output_stride = kVocabSize, p.num_rows = kRows, p.vocab_size = int32_t(kVocabSize);
      p.top_p.values = top_p;
      p.output = twin.data();
      cpu::renorm(p, RowValues::probs, DType::f32, DType::f32);
      p.output = out.data();
      emulation::Block::run_grid(
          unsigned(kRows) * kConfig.cluster, kConfig.threads, size_t(kConfig.smem_bytes()), uint32_t(first),
          [&] { ToppRenormKernel<kConfig>::run(p); }, kConfig.cluster);
      expect_same(out, twin, "first " + std::to_string(first) + ", edge " + std::to_string(edge));
    }
}
TEST(ToppRenormKernel, RowsOfHalves) {
  expect_same_topp_renorm<ToppRenormConfig{.input = DType::bf16, .output = DType::bf16, .threads = 512, .chunks = 2}>(9003, 1);
  expect_same_topp_renorm<ToppRenormConfig{.input = DType::f16, .output = DType::f32, .threads = 512, .cluster = 2, .chunks = 1}>(5001, 2);
}
/// Rows that keep few elements, told from a sample; others, and those in which a warp has no room, as above.
TEST(ToppRenormKernel, FewElements) {
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .chunks = 4, .candidates = 64}>(8011, 1);
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .chunks = 4, .candidates = 256}>(30011, 4);
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .chunks = 4, .candidates = 256, .blocks = 2}>(30011, 5);
  expect_same_topp_renorm<ToppRenormConfig{.input = DType::bf16, .output = DType::bf16, .threads = 512, .chunks = 3, .candidates = 128}>(
      9003, 1);
}
TEST(ToppRenormKernel, FewElementsOfClusters) {
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .cluster = 2, .chunks = 4, .candidates = 64}>(12011, 3);
  expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .cluster = 2, .chunks = 2, .candidates = 160}>(kSanitized ? 12001 : 30001, 5);
  if (!kSanitized)
    expect_same_topp_renorm<ToppRenormConfig{
        .input = DType::bf16, .output = DType::bf16, .threads = 512, .cluster = 2, .chunks = 3, .candidates = 128}>(17003, 7);
}
/// Rows that the one look at few elements must give up or look at again, each with its top_p.
template <ToppRenormConfig kConfig>
void expect_same_of_misleading_rows() {
  constexpr int64_t kRows = 8, kVocabSize = 30011;
  constexpr float top_p[size_t(kRows)] = {0.5f, 0.9f, 0.5f, 0.5f, 0.9f, 0.9f, 0.9f, 0.9f};
  std::vector<float> x(size_t(kRows * kVocabSize), 1e-9f), twin(x.size(), 5), out(x.size(), 5);
  const auto row = [&](int64_t r) { return x.data() + r * kVocabSize; };
  // More in the 128 elements of one warp than it has room for, though all together fit.
  for (int i = 0; i < 40; ++i) row(0)[i * 150] = 0.007f + 1e-5f * float(i);
  for (int i = 0; i < 128; ++i) row(0)[128 * 178 + i] = 0.0075f + 1e-6f * float(i * 7 % 128);
  // The sample, which are 384 elements of every 2048, or 128 of every 624 where blocks share a row, is heavy: what it calls light has the
  // boundary.
  for (int i = 0, heavy = 0, light = 0; i < kVocabSize; ++i) {
    const bool first = i % 2048 < 384, second = i % 624 < 128;
    if (first && second && i % 20 == 0 && heavy < 20) row(1)[i] = 0.02f, ++heavy;
    if (!first && !second && i % 50 == 0 && light < 300) row(1)[i] = 0.002f + 1e-6f * float(light++);
  }
  // An element that is no probability, and weighs what it is.
  row(2)[17] = 1.5f;
  for (int i = 0; i < 300; ++i) row(2)[i * 100 + 1] = 0.01f + 1e-5f * float(i % 50);
  // Half of the mass are four elements of eight, but for 1e-9: less than the roundings of a sum that is known nearly.
  for (int64_t i = 0; i < kVocabSize; ++i) row(3)[i] = i < 40 ? 3.4e-11f : 0;
  for (int i = 0; i < 8; ++i) row(3)[100 + i * 37] = 0.125f;
  // As usual: the sample tells, and no list is full.
  for (int r = 4; r < 8; ++r)
    for (int i = 0; i < 200; ++i) row(r)[i * 150] = 0.005f + 1e-6f * float(i);
  // But for what is no probability either, behind the sample.
  row(5)[29200] = -0.25f, row(6)[29200] = -0.0f, row(7)[29200] = bit_cast<float>(0x7fc00000u);
  RenormParams p;
  p.input = x.data(), p.input_stride = p.output_stride = kVocabSize, p.num_rows = kRows, p.vocab_size = int32_t(kVocabSize);
  p.top_p.values = top_p;
  p.output = twin.data();
  cpu::renorm(p, RowValues::probs, DType::f32, DType::f32);
  p.output = out.data();
  emulation::Block::run_grid(
      unsigned(kRows) * kConfig.cluster, kConfig.threads, size_t(kConfig.smem_bytes()), 1, [&] { ToppRenormKernel<kConfig>::run(p); },
      kConfig.cluster);
  for (int64_t r = 0; r < kRows; ++r) {
    const auto part = [&](const std::vector<float>& rows) {
      return std::vector<float>(rows.begin() + r * kVocabSize, rows.begin() + (r + 1) * kVocabSize);
    };
    expect_same(part(out), part(twin), "row " + std::to_string(r));
  }
  // The twin's own: five of eight.
  EXPECT_EQ(std::count_if(twin.begin() + 3 * kVocabSize, twin.begin() + 4 * kVocabSize, [](float y) { return y > 0; }), 5);
}
TEST(ToppRenormKernel, FewElementsThatMislead) {
  expect_same_of_misleading_rows<ToppRenormConfig{.threads = 512, .chunks = 4, .candidates = 64}>();
  expect_same_of_misleading_rows<ToppRenormConfig{.threads = 512, .cluster = 2, .chunks = 4, .candidates = 64}>();
}

/// More chunks than the mask has bits.
TEST(ToppRenormKernel, LongRows) { expect_same_topp_renorm<ToppRenormConfig{.threads = 512, .chunks = 2}>(kSanitized ? 20001 : 70001, 6); }

/// The boundary lies in one bin or two, 1.6 % of its value, whatever the shape, if the row sums to one.
TEST(ProbBins, LeaveABinOrTwo) {
  constexpr int kThreads = 512, kVocabSize = 20000;
  using Bins = gpu::ProbBins<kThreads, gpu::RowGroup<kThreads, 1>, 1>;
  Rows<float> rows(6, kVocabSize, true, 3);
  for (int64_t r : {0, 1, 2, 4, 5})
    for (float top_p : {0.05f, 0.5f, 0.9f, 0.99f}) {
      const float* x = rows.row(r);
      std::vector<float> sorted(x, x + kVocabSize);
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      double total = 0, mass = 0;
      for (float value : sorted) total += value;
      size_t last = 0;
      while ((mass += sorted[last]) < double(top_p) * total) ++last;
      Bins::Keys keys{};
      emulation::Block::run_grid(1, kThreads, sizeof(Bins::Smem), 1, [&] {
        Bins::Smem& smem = *reinterpret_cast<Bins::Smem*>(gpu::dynamic_smem());
        const Bins bins(smem, kVocabSize, top_p);
        Bins::clear(smem);
        __syncthreads();
        for (int i = int(threadIdx.x) * 4; i < ceil_div(kVocabSize, 4 * kThreads) * 4 * kThreads; i += 4 * kThreads) {
          float of_four[4] = {};
          for (int j = 0; j < 4 && i < kVocabSize; ++j) of_four[j] = x[i + j];
          bins.add(of_four);
        }
        __syncthreads();
        const Bins::Keys found = bins.find(top_p, Bins::fixed(float(total)));
        if (threadIdx.x == 0) keys = found;
      });
      const float least = value_of_order_key<float>(keys.least), most = value_of_order_key<float>(keys.most);
      EXPECT_TRUE(least <= sorted[last] && sorted[last] <= most)
          << r << " " << top_p << ": " << least << " " << sorted[last] << " " << most;
      EXPECT_LE(most, least * 1.016f) << r << " " << top_p;
    }
}

/// Of flat rows, where a bin has a third of all, a sample and finer bins leave some dozens; as of others where the sample misses.
TEST(ProbBins, LeaveLittleOfAWindow) {
  constexpr int kThreads = 512, kVocabSize = 20000, kSampled = 4096;
  using Bins = gpu::ProbBins<kThreads, gpu::RowGroup<kThreads, 1>, 1, true>;
  std::mt19937 random(5);
  for (float deviation : {0.002f, 0.02f, 0.2f})
    for (float top_p : {0.1f, 0.5f, 0.9f, 0.99f})
      for (int missed : {0, 1}) {
        std::normal_distribution<float> normal(0, deviation);
        std::vector<float> x(kVocabSize);
        for (float& value : x) value = std::exp(normal(random)) / float(kVocabSize);
        if (missed)  // it is of what comes first
          for (int i = 0; i < kSampled; ++i) x[size_t(i)] *= 0.5f;
        std::vector<float> sorted = x;
        std::sort(sorted.begin(), sorted.end(), std::greater<>());
        double total = 0, mass = 0;
        float of_sample = 0;
        for (float value : sorted) total += value;
        for (int i = 0; i < kSampled; ++i) of_sample += x[size_t(i)];
        size_t last = 0;
        while ((mass += sorted[last]) < double(top_p) * total) ++last;
        Bins::Keys keys{};
        uint32_t window = 0;
        emulation::Block::run_grid(1, kThreads, sizeof(Bins::Smem), 1, [&] {
          Bins::Smem& smem = *reinterpret_cast<Bins::Smem*>(gpu::dynamic_smem());
          const auto clear = [&] {
            __syncthreads();
            Bins::clear(smem), Bins::clear_window(smem);
            __syncthreads();
          };
          clear();
          const Bins sample(smem, kVocabSize, top_p);
          for (int i = int(threadIdx.x); i < kSampled; i += kThreads) sample.add(x[size_t(i)], 1);
          __syncthreads();
          sample.reach(Bins::fixed(0.5f * of_sample), 100);
          const uint32_t around = sample.window(top_p, Bins::fixed(of_sample));
          clear();
          const Bins bins(smem, kVocabSize, top_p, around);
          for (int i = int(threadIdx.x); i < kVocabSize; i += kThreads) bins.add(x[size_t(i)], 1);
          __syncthreads();
          const Bins::Keys found = bins.find(top_p, Bins::fixed(float(total)));
          if (threadIdx.x == 0) keys = found, window = around;
        });
        const float least = value_of_order_key<float>(keys.least), most = value_of_order_key<float>(keys.most);
        SCOPED_TRACE(std::to_string(deviation) + " " + std::to_string(top_p) + " " + std::to_string(missed));
        EXPECT_NE(window, Bins::kNoWindow);
        EXPECT_TRUE(least <= sorted[last] && sorted[last] <= most) << least << " " << sorted[last] << " " << most;
        const auto left = std::count_if(x.begin(), x.end(), [&](float value) { return value >= least && value <= most; });
        if (!missed) EXPECT_LT(left, 100);
      }
}

/// Of flat rows a cluster's bins have thousands; another look at these leaves some dozens. Where the first bin of an octave has the
/// boundary, it stays whole.
TEST(ProbBins, LeaveLittleOfWhatIsCrowded) {
  constexpr int kThreads = 512, kVocabSize = 20000, kCluster = 4, kMost = 300;
  using Group = gpu::RowGroup<kThreads, kCluster>;
  using Bins = gpu::ProbBins<kThreads, Group, kCluster>;
  std::mt19937 random(6);
  int divided = 0;
  for (float deviation : {0.001f, 0.004f, 0.02f, 0.2f, 2.0f})
    for (float top_p : {0.1f, 0.5f, 0.9f, 0.99f}) {
      const bool at_octave = deviation == 0.001f;
      std::normal_distribution<float> normal(0, deviation);
      std::vector<float> x(kVocabSize);
      const float centre = at_octave ? 1.003f / 16384 : 1 / (float(kVocabSize) * std::exp(0.5f * deviation * deviation));
      for (float& value : x) value = std::exp(normal(random)) * centre;
      std::vector<float> sorted = x;
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      double total = 0, mass = 0;
      for (float value : sorted) total += value;
      size_t last = 0;
      while ((mass += sorted[last]) < double(top_p) * total) ++last;
      Bins::Keys before{}, after{};
      bool crowded = false;
      emulation::Block::run_grid(
          kCluster, kThreads, sizeof(Bins::Smem), 1,
          [&] {
            Bins::Smem& smem = *reinterpret_cast<Bins::Smem*>(gpu::dynamic_smem());
            const auto add = [&]<Bins::Into kInto>(const Bins& bins, std::integral_constant<Bins::Into, kInto>) {
              for (int i = Group::rank() * kThreads + int(threadIdx.x); i < kVocabSize; i += kThreads * kCluster)
                bins.add<kInto>(x[size_t(i)], 1);
              bins.tell();
              Group::sync();
            };
            Bins::clear(smem);
            Group::sync();
            const Bins bins(smem, kVocabSize, top_p);
            const uint64_t sum = Bins::fixed(float(total));
            add(bins, std::integral_constant<Bins::Into, Bins::kAll>{});
            const Bins::Keys of_bins = bins.find(top_p, sum);
            Bins::Keys found = of_bins;
            const bool divides = bins.is_crowded(kMost);
            if (divides) {
              const Bins within = bins.within();
              add(within, std::integral_constant<Bins::Into, Bins::kCrowded>{});
              found = within.find_within(top_p, sum);
            }
            if (threadIdx.x == 0 && Group::rank() == kCluster - 1) before = of_bins, after = found, crowded = divides;
            Group::leave();
          },
          kCluster);
      const float least = value_of_order_key<float>(after.least), most = value_of_order_key<float>(after.most);
      SCOPED_TRACE(std::to_string(deviation) + " " + std::to_string(top_p));
      const auto left = [&](const Bins::Keys& keys) {
        return std::count_if(x.begin(), x.end(),
                             [&](float value) { return order_key(value) >= keys.least && order_key(value) <= keys.most; });
      };
      EXPECT_TRUE(least <= sorted[last] && sorted[last] <= most) << least << " " << sorted[last] << " " << most;
      if (!at_octave) EXPECT_LT(left(after), crowded ? 40 : 2 * kMost + 2);
      EXPECT_GE(after.least, before.least);
      EXPECT_LE(after.most, before.most);
      divided += crowded;
    }
  EXPECT_GE(divided, 6);
}

/// A floor has the mass and the elements that are wanted, and a bin less does not; without them it is the least that has a bin.
TEST(ProbBins, ReachMassAndCount) {
  constexpr int kThreads = 512, kVocabSize = 20000;
  using Bins = gpu::ProbBins<kThreads, gpu::RowGroup<kThreads, 1>, 1>;
  Rows<float> rows(5, kVocabSize, true, 3);
  for (int64_t r : {0, 1, 2, 4})
    for (float mass : {0.0f, 0.3f, 0.9f})
      for (int wanted : {1, 40, 3000, 30000}) {
        const float* x = rows.row(r);
        Bins::Floor floor{};
        emulation::Block::run_grid(1, kThreads, sizeof(Bins::Smem), 1, [&] {
          Bins::Smem& smem = *reinterpret_cast<Bins::Smem*>(gpu::dynamic_smem());
          const Bins bins(smem, kVocabSize, 0.9f);
          Bins::clear(smem);
          __syncthreads();
          for (int i = int(threadIdx.x); i < kVocabSize; i += kThreads) bins.add(x[i], 1);
          __syncthreads();
          const Bins::Floor found = bins.reach(Bins::fixed(mass), wanted);
          if (threadIdx.x == 0) floor = found;
        });
        const float least = value_of_order_key<float>(floor.key);
        double above = 0, beyond = 0;  // of what reaches the floor, and of what lies a bin higher
        int count = 0, count_beyond = 0;
        for (int i = 0; i < kVocabSize; ++i) {
          if (x[i] >= least) above += x[i], ++count;
          if (x[i] >= least * 1.008f) beyond += x[i], ++count_beyond;
        }
        SCOPED_TRACE(std::to_string(r) + " " + std::to_string(mass) + " " + std::to_string(wanted));
        EXPECT_GE(floor.count, count);
        EXPECT_LE(floor.count, 1.01 * count + 1);
        if (least <= 0.05f / kVocabSize) {  // what is less has no bin
          EXPECT_TRUE(count <= wanted || above <= 1.0001 * double(mass));
          continue;
        }
        EXPECT_LT(wanted, kVocabSize);
        EXPECT_GE(above, 0.9999 * double(mass));
        EXPECT_GE(1.01 * count + 1, wanted);
        EXPECT_TRUE(beyond < 1.0001 * double(mass) || count_beyond < wanted);
      }
}

}  // namespace
}  // namespace flashinfer
