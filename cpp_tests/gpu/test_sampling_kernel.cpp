// The kernels of sampling, softmax and renorm, emulated: clusters of blocks, rings of chunks that run ahead into the next rows, rows that begin
// anywhere. What is kept and drawn must be what the CPU twin keeps and draws, exactly.
#include <flashinfer/sampling/renorm.hpp>
#include <flashinfer/sampling/sampling.hpp>
#include <flashinfer/sampling/softmax.hpp>

#include <gtest/gtest.h>

#include <cpp_tests/gpu/emulation/emulator.hpp>

#include <flashinfer/sampling/gpu/sampling_kernel.cuh>

namespace flashinfer {
namespace {

/// Rows of one kind each, so that every way through the filter is taken.
enum class Shape { normal, peaked, flat, tied, zipf, mostly_ties, infinite, nan, empty };
constexpr Shape kShapes[] = {Shape::normal, Shape::peaked, Shape::flat, Shape::tied, Shape::zipf, Shape::mostly_ties, Shape::infinite, Shape::nan, Shape::empty};

template <class T>
struct Rows {
  int64_t num_rows, vocab_size, stride;
  std::vector<T> data;
  Rows(int64_t num_rows, int64_t vocab_size, bool probs, uint32_t seed, int first = 0)
      : num_rows(num_rows), vocab_size(vocab_size), stride(vocab_size + seed % 3), data(size_t(num_rows * stride + 8)), first(first) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int64_t r = 0; r < num_rows; ++r) {
      const Shape shape = kShapes[size_t(r) % std::size(kShapes)];
      double sum = 0;
      std::vector<float> x(static_cast<size_t>(vocab_size));
      for (int64_t i = 0; i < vocab_size; ++i) {
        float v = 3 * normal(random);
        if (shape == Shape::peaked) v *= 3;
        if (shape == Shape::flat) v *= 0.02f;
        if (shape == Shape::tied) v = 1.5f;
        if (shape == Shape::zipf) v = -1.1f * std::log(float(i + 1)) + 0.1f * v;
        if (shape == Shape::mostly_ties) v = i % 16 ? std::floor(v / 4) : v;
        if (shape == Shape::infinite && i % 3 == 0) v = -INFINITY;
        if (shape == Shape::empty) v = -INFINITY;
        x[size_t(i)] = v;
        sum += std::exp(double(v));
      }
      if (shape == Shape::nan) x[size_t(vocab_size / 2)] = NAN;
      for (int64_t i = 0; i < vocab_size; ++i)
        row(r)[i] = from_float<T>(probs ? float(sum > 0 ? std::exp(double(x[size_t(i)])) / sum : 0) : x[size_t(i)]);
    }
  }
  int first;
  T* row(int64_t r) { return data.data() + first + r * stride; }
};

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
  for (const Case& c : {Case{0, 1, 0, 1, false}, Case{1, 1, 0, 1, false}, Case{7, 1, 0, 0.7f, false}, Case{50, 0.9f, 0, 1, false}, Case{50, 0.6f, 0, 1, true},
                        Case{0, 0.9f, 0, 1, false}, Case{0, 0.999f, 0, 1, false}, Case{0, 0.3f, 0.01f, 0.5f, false}, Case{0, 1, 0.1f, 1, false},
                        Case{int32_t(vocab_size / 2), 0.95f, 0, 1, false}, Case{int32_t(vocab_size - 1), 0.5f, 0.001f, 2, true},
                        Case{int32_t(vocab_size / 3), 1, 0.002f, 1, false}, Case{0, 0, 0, 1, false}, Case{0, 1, 0, 0, false}}) {
    std::vector<int32_t> tokens(size_t(num_rows), -7), twin(size_t(num_rows), -7);
    std::vector<char> valid(size_t(num_rows), 7), valid_twin(size_t(num_rows), 7);
    SamplingParams p;
    p.input = rows.row(0);
    p.input_stride = rows.stride;
    p.num_rows = p.num_inputs = num_rows;
    p.vocab_size = int32_t(vocab_size);
    p.temperature.value = c.temperature, p.top_k.value = c.k, p.top_p.value = c.p, p.min_p.value = c.min_p;
    p.joint = c.joint;
    p.seed.value = seed, p.offset.value = 3;
    SamplingParams cpu = p;
    cpu.tokens = twin.data(), cpu.valid = reinterpret_cast<bool*>(valid_twin.data());
    cpu::sampling(cpu, kConfig.values, kConfig.input);
    p.tokens = tokens.data(), p.valid = reinterpret_cast<bool*>(valid.data());
    const unsigned clusters = unsigned(std::min<int64_t>(num_rows, 2));
    emulation::Block::run_grid(clusters * kConfig.cluster, kConfig.threads, size_t(kConfig.split().smem_bytes()), seed,
                               [&] { SamplingKernel<kConfig>::run(p); }, kConfig.cluster);
    for (int64_t r = 0; r < num_rows; ++r) {
      EXPECT_EQ(tokens[size_t(r)], twin[size_t(r)]) << "row " << r << " k " << c.k << " p " << c.p << " min_p " << c.min_p << " joint " << c.joint;
      EXPECT_EQ(valid[size_t(r)], valid_twin[size_t(r)]) << "row " << r;
    }
  }
}

constexpr RowValues kLogits = RowValues::logits, kProbs = RowValues::probs;

TEST(SamplingKernel, RowsInL2) {
  expect_same_tokens<SamplingConfig{.values = kLogits, .threads = 256}>(9, 5000, 1);
  expect_same_tokens<SamplingConfig{.values = kProbs, .threads = 256}>(9, 4099, 2);
  expect_same_tokens<SamplingConfig{.input = DType::bf16, .values = kLogits, .threads = 256}>(9, 3001, 3);
}

TEST(SamplingKernel, Clusters) {
  expect_same_tokens<SamplingConfig{.values = kLogits, .threads = 256, .cluster = 2, .chunks = 5}>(9, 6001, 4);
  expect_same_tokens<SamplingConfig{.values = kProbs, .threads = 256, .cluster = 4, .chunks = 7}>(9, 20000, 5);
  expect_same_tokens<SamplingConfig{.input = DType::f16, .values = kLogits, .threads = 256, .cluster = 2, .chunks = 3}>(9, 7777, 6);
  expect_same_tokens<SamplingConfig{.values = kProbs, .threads = 256, .cluster = 2, .chunks = 2}>(5, 17, 7);
}

}  // namespace
}  // namespace flashinfer
