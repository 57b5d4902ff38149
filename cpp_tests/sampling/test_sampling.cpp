// Masses, prefixes and races of the CPU back end against plain code, and the checks of the public functions. What is drawn and kept is
// tested against float64 in python_tests/test_sampling.py.
#include <flashinfer/sampling/renorm.hpp>
#include <flashinfer/sampling/sampling.hpp>
#include <flashinfer/sampling/softmax.hpp>
#include <flashinfer/sampling/speculative.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace flashinfer {
namespace {

TEST(Mass, IsRoundedToNearestEven) {
  std::mt19937_64 random(1);
  const auto check = [](float f) {
    const uint64_t expected = uint64_t(std::nearbyint(double(f) * 0x1p40));
    ASSERT_EQ(mass_of(f), expected) << f;
    ASSERT_EQ(cpu::mass_of(f), expected) << f;
  };
  for (int i = 0; i < 2'000'000; ++i) {
    const uint32_t bits = uint32_t(random());
    check(bit_cast<float>(bits % 0x3f800002u));
    check(float(bits >> 8) * 0x1p-24f);
    check(std::ldexp(1.0f + float(bits & 7) * 0.125f, -int(bits >> 8 & 0xffff) % 45));  // halves
  }
}

TEST(Mass, NeededOfATotal) {
  EXPECT_EQ(needed_mass(0.5f, 1000), 500u);
  EXPECT_EQ(needed_mass(0.5f, 1001), 501u);
  EXPECT_EQ(needed_mass(0.0f, 1000), 1u);
  EXPECT_EQ(needed_mass(-1.0f, 1000), 1u);
  EXPECT_EQ(needed_mass(bit_cast<float>(0x7fc00000), 1000), 1u);
  EXPECT_EQ(needed_mass(1e-30f, 1000), 1u);
  EXPECT_EQ(needed_mass(0.99999994f, uint64_t(1) << 62), uint64_t(double(0.99999994f) * 0x1p62));
  for (uint64_t total : {uint64_t(1), uint64_t(3), (uint64_t(1) << 62) - 1}) EXPECT_LE(needed_mass(0.99999994f, total), total);
}

cpu::Candidates make_candidates(std::mt19937& random, int64_t size, int distinct) {
  cpu::Candidates c;
  c.reserve(size);
  c.count = size;
  for (int64_t i = 0; i < size; ++i) {
    const float weight =
        distinct ? float(random() % uint32_t(distinct)) / float(distinct) : std::uniform_real_distribution<float>()(random);
    c.x[size_t(i)] = weight * 3 - 1;
    c.weight[size_t(i)] = weight * weight;
    c.index[size_t(i)] = int32_t(3 * i);
  }
  return c;
}

TEST(KeepPrefix, IsWhatSortingKeeps) {
  std::mt19937 random(7);
  for (int distinct : {0, 1, 2, 17})
    for (int64_t size : {1, 2, 100, 3000})
      for (int trial = 0; trial < 10; ++trial) {
        const cpu::Candidates all = make_candidates(random, size, distinct);
        std::vector<int> order(static_cast<size_t>(size));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return all.x[size_t(a)] > all.x[size_t(b)]; });
        for (bool by_mass : {false, true}) {
          const uint64_t most = by_mass ? all.mass() : uint64_t(size);
          if (most == 0) continue;
          const uint64_t needed = random() % most + 1;
          uint64_t sum = 0;
          size_t length = 0;
          while (sum < needed) sum += by_mass ? mass_of(all.weight[size_t(order[length])]) : 1, ++length;
          std::vector<int> expected(order.begin(), order.begin() + std::ptrdiff_t(length));
          std::sort(expected.begin(), expected.end());

          cpu::Candidates kept = all;
          cpu::keep_prefix(kept, by_mass, needed);
          ASSERT_EQ(kept.count, int64_t(length)) << by_mass << " " << needed << " of " << most << ", " << distinct << " values";
          for (size_t i = 0; i < length; ++i) {
            ASSERT_EQ(kept.index[i], 3 * expected[i]);
            ASSERT_EQ(kept.x[i], all.x[size_t(expected[i])]);
            ASSERT_EQ(kept.weight[i], all.weight[size_t(expected[i])]);
          }
        }
      }
}

TEST(Race, RunsAndSingleTokensGiveTheSameWinner) {
  std::mt19937_64 random(9);
  for (int trial = 0; trial < 3000; ++trial) {
    const int64_t size = 1 + int64_t(random() % 1000);
    std::vector<float> weights(static_cast<size_t>(size));
    for (float& w : weights) w = random() % 3 == 0 ? 0.0f : float(random() % 1000);
    const uint64_t seed = random(), offset = random();
    const uint32_t draw = uint32_t(random()), step = uint32_t(random() % 128);

    int64_t winner = -1;
    float best = 0;
    for (int64_t i = 0; i < size; ++i) {
      const float score = race_score(weights[size_t(i)], noise_bits(seed, offset, draw, uint32_t(i), step));
      if (score > best) best = score, winner = i;
    }
    cpu::Race one(seed, offset, draw, step);
    for (int64_t i = 0; i < size; ++i) one.enter(i, weights[size_t(i)]);
    EXPECT_EQ(one.token(), winner);
    for (cpu::IsaLevel level : {cpu::IsaLevel::baseline, cpu::IsaLevel::avx2, cpu::IsaLevel::avx512}) {
      if (level > cpu::best_isa()) continue;
      cpu::Race run(seed, offset, draw, step);
      cpu::dispatch_isa(level, [&]<class Isa>(Isa) FLASHINFER_INLINE {
        for (int64_t i = 0; i < size; i += 256) run.enter<Isa>(i, weights.data() + i, std::min<int64_t>(256, size - i));
      });
      EXPECT_EQ(run.token(), winner) << cpu::name_of(level);
    }
  }
}

/// keep() on every ISA of this machine against sorting, with guesses of a sample that are good (normal values), useless (all equal) and
/// wrong: the sample sees every 4th element only, and the others are the large ones.
TEST(Row, KeepsThePrefixWhateverTheSampleTells) {
  std::mt19937 random(11);
  constexpr int64_t kSize = 4 * 2048 + 77;
  for (int kind = 0; kind < 4; ++kind) {
    std::vector<float> x(kSize);
    for (int64_t i = 0; i < kSize; ++i) {
      x[size_t(i)] = kind == 1 ? 2.0f : std::normal_distribution<float>()(random);
      if (kind == 2 && i % 4 != 0) x[size_t(i)] += 10;
      if (kind == 3) x[size_t(i)] = i % 4 == 0 ? 5.0f : -5.0f + 0.001f * x[size_t(i)];
    }
    std::vector<int32_t> order(kSize);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[size_t(a)] > x[size_t(b)]; });
    for (cpu::IsaLevel level : {cpu::IsaLevel::baseline, cpu::IsaLevel::avx2, cpu::IsaLevel::avx512}) {
      if (level > cpu::best_isa()) continue;
      cpu::dispatch_isa(level, [&]<class Isa>(Isa) {
        const cpu::Row<Isa, RowValues::logits> row(x.data(), kSize, 1.0f);
        uint64_t total = 0;
        for (float w : x) total += mass_of(row.weight(w));
        EXPECT_EQ(row.mass(), total);
        for (const cpu::RowFilter& filter :
             {cpu::RowFilter{.top_k = 1}, cpu::RowFilter{.top_k = 3000}, cpu::RowFilter{.top_p = 0.1f}, cpu::RowFilter{.top_p = 0.99f},
              cpu::RowFilter{.min_p = 0.3f}, cpu::RowFilter{.top_k = 50, .top_p = 0.5f, .min_p = 0.01f},
              cpu::RowFilter{.top_k = 5000, .top_p = 0.4f, .joint = true}}) {
          int64_t length = std::min(filter.top_k, kSize);
          if (filter.min_p > 0)
            length = std::min<int64_t>(
                length, std::count_if(x.begin(), x.end(), [&](float v) { return row.weight(v) >= filter.min_p * 0.999999f; }));
          uint64_t base = 0, sum = 0;
          for (int64_t i = 0; i < (filter.joint ? kSize : length); ++i) base += mass_of(row.weight(x[size_t(order[size_t(i)])]));
          if (filter.top_p < 1) {
            int64_t by_mass = 0;
            for (const uint64_t needed = needed_mass(filter.top_p, base); sum < needed; ++by_mass)
              sum += mass_of(row.weight(x[size_t(order[size_t(by_mass)])]));
            length = std::min(length, by_mass);
          }
          cpu::Candidates kept;
          uint64_t unknown = 0;
          ASSERT_TRUE(row.keep(filter, kept, unknown));
          ASSERT_EQ(kept.count, length) << "kind " << kind << " on " << cpu::name_of(level);
          std::vector<int32_t> expected(order.begin(), order.begin() + std::ptrdiff_t(length));
          std::sort(expected.begin(), expected.end());
          EXPECT_TRUE(std::equal(expected.begin(), expected.end(), kept.index.begin()));
        }
      });
    }
  }
}

TEST(Sampling, ChecksItsArguments) {
  std::vector<float> values(40, 1.0f), written(40);
  std::vector<int32_t> ids(4);
  const TensorView probs(values.data(), DType::f32, {4, 10});
  SamplingOutputs outputs;
  outputs.tokens = TensorView(ids.data(), DType::i32, {4});
  const auto draw = [&](const SamplingFilters& filters, const SamplingSeed& seed = {}) {
    sampling(RowValues::probs, probs, {}, filters, seed, outputs);
  };
  EXPECT_NO_THROW(draw({}));
  EXPECT_THROW(draw({.top_k = -1}), InvalidArgument);
  EXPECT_THROW(draw({.top_p = -0.1f}), InvalidArgument);
  EXPECT_THROW(draw({.min_p = 1.1f}), InvalidArgument);
  EXPECT_THROW(draw({.temperature = -1.0f}), InvalidArgument);
  EXPECT_THROW(draw({.top_p = TensorView(written.data(), DType::f32, {3})}), InvalidArgument);
  outputs.tokens = TensorView(ids.data(), DType::i32, {3});
  EXPECT_THROW(draw({}), InvalidArgument);
  outputs.tokens = TensorView(ids.data(), DType::i32, {4});
  outputs.logprobs = TensorView(values.data(), DType::f32, {4});
  EXPECT_THROW(draw({}), InvalidArgument);  // over the input
  outputs.logprobs = {};
  outputs.top_tokens = TensorView(written.data(), DType::i32, {4, 2});
  EXPECT_THROW(draw({}), InvalidArgument);  // without top_logprobs
  EXPECT_THROW(softmax(probs, 1.0f, TensorView(written.data(), DType::f32, {4, 9})), InvalidArgument);
  EXPECT_THROW(softmax(probs, 1.0f, TensorView(written.data(), DType::f16, {4, 10})), InvalidArgument);
  EXPECT_THROW(top_k_renorm_probs(probs, 3, TensorView(values.data() + 1, DType::f32, {4, 10})), InvalidArgument);
  EXPECT_THROW(top_k_mask_logits(TensorView(values.data(), DType::bf16, {4, 10}), 3, TensorView(written.data(), DType::f32, {4, 10})),
               InvalidArgument);
}

}  // namespace
}  // namespace flashinfer
