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

/// What a filter keeps of a row, by sorting.
std::vector<int32_t> sorted_prefix(const std::vector<float>& x, const std::vector<float>& weight, const cpu::RowFilter& filter,
                                   float least) {
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[size_t(a)] > x[size_t(b)]; });
  const auto mass_to = [&](size_t length) {
    uint64_t sum = 0;
    for (size_t i = 0; i < length; ++i) sum += mass_of(weight[size_t(order[i])]);
    return sum;
  };
  size_t length = std::min(size_t(filter.top_k), x.size());
  while (length > 0 && !(x[size_t(order[length - 1])] >= least)) --length;
  if (filter.top_p < 1) {
    const uint64_t needed = needed_mass(filter.top_p, mass_to(filter.joint ? x.size() : length));
    size_t by_mass = 0;
    for (uint64_t sum = 0; sum < needed && by_mass < x.size(); ++by_mass) sum += mass_of(weight[size_t(order[by_mass])]);
    length = std::min(length, by_mass);
  }
  std::vector<int32_t> kept(order.begin(), order.begin() + std::ptrdiff_t(length));
  std::sort(kept.begin(), kept.end());
  return kept;
}

/// Filters on every ISA of this machine against sorting, of rows whose sample tells the truth (normal values, wide to nearly equal),
/// nothing (all equal, or -inf but for a few) or lies: it sees every 4th element only, and the others are the large ones, or the small
/// ones.
template <RowValues kValues>
void expect_sorted_prefixes() {
  std::mt19937 random(11);
  for (int64_t size : {1000, 4 * 2048 + 77})
    for (int kind = 0; kind < 9; ++kind) {
      std::vector<float> x(static_cast<size_t>(size));
      for (int64_t i = 0; i < size; ++i) {
        float value = std::normal_distribution<float>()(random);
        if (kind == 1) value = 2;
        if (kind == 2 && i % 4 != 0) value += 10;
        if (kind == 3) value = i % 4 == 0 ? 5.0f : -5.0f + 0.001f * value;
        if (kind == 4) value *= 1e-3f;
        if (kind == 5) value *= 8;
        if (kind == 6) value = std::round(value);
        if (kind == 7 && i % 100 != 7) value = -kInfinity;
        if (kind == 8) value = i < size / 2 ? -kInfinity : 1.5f;
        x[size_t(i)] = kValues == RowValues::logits ? value : std::exp(value);
      }
      for (cpu::IsaLevel level : {cpu::IsaLevel::baseline, cpu::IsaLevel::avx2, cpu::IsaLevel::avx512}) {
        if (level > cpu::best_isa()) continue;
        cpu::dispatch_isa(level, [&]<class Isa>(Isa) {
          const cpu::Row<Isa, kValues> row(x.data(), size, 1.0f);
          const cpu::RowFilters<Isa, kValues> filters(row);
          std::vector<float> weight(x.size());
          uint64_t total = 0;
          for (size_t i = 0; i < x.size(); ++i) weight[i] = row.weight(x[i]), total += mass_of(weight[i]);
          EXPECT_EQ(row.mass(), total);
          for (const cpu::RowFilter& filter :
               {cpu::RowFilter{.top_k = 1}, cpu::RowFilter{.top_k = 50}, cpu::RowFilter{.top_k = size / 3}, cpu::RowFilter{.top_p = 0},
                cpu::RowFilter{.top_p = 0.1f}, cpu::RowFilter{.top_p = 0.9f}, cpu::RowFilter{.top_p = 0.99999f},
                cpu::RowFilter{.min_p = 0.3f}, cpu::RowFilter{.min_p = 1e-6f}, cpu::RowFilter{.top_p = 0.6f, .min_p = 0.01f},
                cpu::RowFilter{.top_p = 0.97f, .min_p = 0.1f, .joint = true}, cpu::RowFilter{.top_k = 50, .top_p = 0.5f, .min_p = 0.01f},
                cpu::RowFilter{.top_k = size / 2, .top_p = 0.4f, .joint = true},
                cpu::RowFilter{.top_k = 70, .top_p = 0.9f, .joint = true}}) {
            const std::vector<int32_t> expected = sorted_prefix(x, weight, filter, row.least_kept(filter.min_p));
            cpu::Candidates c;
            auto list = cpu::RowList<Isa>::of_first(x.data(), size, filters.kNothing, filters.first_of(filter, size), c);
            list.see_all();
            list.end();
            cpu::KeptElements kept = filters.keep(filter, c);
            uint64_t mass = 0;
            for (int32_t i : expected) mass += mass_of(weight[size_t(i)]);
            const auto what = [&] {
              return "kind " + std::to_string(kind) + " of " + std::to_string(size) + " on " + cpu::name_of(level) + ", top_k " +
                     std::to_string(filter.top_k) + ", top_p " + std::to_string(filter.top_p) + ", min_p " + std::to_string(filter.min_p);
            };
            ASSERT_EQ(filters.end(kept, c), mass) << what();
            std::vector<int32_t> found(c.index.begin(), c.index.begin() + (kept.listed ? c.count : 0));
            if (!kept.listed) {
              ASSERT_EQ(kept.mass, 0u);
              for (int64_t i = 0; i < size; ++i)
                if (row.rank(i) >= kept.rank) found.push_back(int32_t(i));
            }
            // What has no mass may be left out.
            std::erase_if(found, [&](int32_t i) { return weight[size_t(i)] == 0; });
            std::vector<int32_t> weighing = expected;
            std::erase_if(weighing, [&](int32_t i) { return weight[size_t(i)] == 0; });
            ASSERT_EQ(found, weighing) << what();
          }
          cpu::Candidates first;
          filters.list_first(20, first);
          std::vector<int32_t> found(first.index.begin(), first.index.begin() + first.count);
          std::sort(found.begin(), found.end());
          EXPECT_EQ(found, sorted_prefix(x, weight, {.top_k = 20}, -kInfinity));
        });
      }
    }
}
TEST(RowFilters, KeepLogitsThatSortingKeeps) { expect_sorted_prefixes<RowValues::logits>(); }
TEST(RowFilters, KeepProbabilitiesThatSortingKeeps) { expect_sorted_prefixes<RowValues::probs>(); }

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
