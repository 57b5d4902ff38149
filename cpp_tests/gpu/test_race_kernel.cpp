// The race of sampling, emulated, and the counts that tell where top_p ends. What is drawn must be what the CPU twin draws, exactly.
#include <flashinfer/sampling/sampling.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include <cpp_tests/gpu/emulation/emulator.hpp>
#include <cpp_tests/gpu/sampling_rows.hpp>

#include <flashinfer/sampling/gpu/race_kernel.cuh>

namespace flashinfer {
namespace {

/// Rows that nothing cuts, or top_p and min_p, by another share in each row; `part` of them is top_p. Probabilities have this sum.
template <RaceConfig kConfig>
void expect_same_race(int64_t num_rows, int64_t vocab_size, uint32_t seed, float temperature = 1, float part = 1, float sum = 1,
                      const std::function<void(Rows<number_t<kConfig.input>>&)>& edit = {}) {
  using T = number_t<kConfig.input>;
  Rows<T> rows(num_rows, vocab_size, kConfig.values == RowValues::probs, seed, int(seed % 4));
  if (edit) edit(rows);
  std::vector<int64_t> tokens[2];
  std::vector<char> valid[2];
  float top_p[] = {0.9f, 0.1f, 0.5f, 0.99f, 0.9f, 1, 0, 0.9f, 0.9f};
  constexpr float min_p[] = {0.1f, 0, 0.5f, 1e-3f, 1, 0.05f, 0.3f, 2, 0.01f};
  for (float& share : top_p) share *= part;
  for (T& x : rows.data) x = from_float<T>(to_float(x) * sum);
  for (int i = 0; i < 2; ++i) {
    tokens[i].assign(size_t(num_rows), -7), valid[i].assign(size_t(num_rows), 7);
    SamplingParams p;
    p.input = rows.row(0), p.input_stride = rows.stride, p.num_rows = p.num_inputs = num_rows, p.vocab_size = int32_t(vocab_size);
    p.tokens = tokens[i].data(), p.tokens_64 = true, p.valid = reinterpret_cast<bool*>(valid[i].data());
    p.seed.value = seed, p.offset.value = 5, p.temperature.value = temperature;
    if (kConfig.top_p) p.top_p.values = top_p, p.joint = seed / 2 % 2;
    if (kConfig.min_p) p.min_p.values = min_p;
    if (i == 0)
      cpu::sampling(p, kConfig.values, kConfig.input);
    else
      emulation::Block::run_grid(
          unsigned(num_rows) * kConfig.cluster, kConfig.threads, size_t(kConfig.smem_bytes()), seed, [&] { RaceKernel<kConfig>::run(p); },
          kConfig.cluster);
  }
  EXPECT_EQ(tokens[0], tokens[1]);
  EXPECT_EQ(valid[0], valid[1]);
}

TEST(RaceKernel, MatchesItsTwin) {
  for (uint32_t seed : {2, 4}) {
    expect_same_race<RaceConfig{.values = kLogits}>(9, 5003, seed);
    expect_same_race<RaceConfig{.values = kProbs}>(9, 4099, seed);
    expect_same_race<RaceConfig{.values = kLogits, .cluster = 6}>(9, 9001, seed, 0.6f);
    expect_same_race<RaceConfig{.values = kProbs, .threads = 512, .cluster = 2}>(9, 6002, seed);
    expect_same_race<RaceConfig{.input = DType::bf16, .values = kLogits, .cluster = 2}>(9, 7001, seed, 1.5f);
    expect_same_race<RaceConfig{.input = DType::f16, .values = kProbs}>(9, 777, seed);
    expect_same_race<RaceConfig{.values = kLogits, .cluster = 2}>(3, 5, seed);
  }
}
TEST(RaceKernel, Filters) {
  for (uint32_t seed : {1, 3}) {
    expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .cluster = 2, .columns = 8}>(9, 5003, seed, 0.8f);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8}>(9, 4099, seed);
    expect_same_race<RaceConfig{.input = DType::bf16, .values = kProbs, .top_p = true, .cluster = 4, .columns = 4}>(9, 3001, seed);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 2}>(9, 9001, seed);
    expect_same_race<RaceConfig{.input = DType::f16, .values = kLogits, .top_p = true, .columns = 4}>(9, 4003, seed);
    expect_same_race<RaceConfig{.values = kLogits, .min_p = true, .cluster = 2, .columns = 8}>(9, 5003, seed, 0.9f);
    expect_same_race<RaceConfig{.values = kProbs, .min_p = true, .columns = 8}>(9, 3099, seed);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .min_p = true, .cluster = 4, .columns = 2}>(9, 5001, seed);
    expect_same_race<RaceConfig{.input = DType::bf16, .values = kLogits, .top_p = true, .min_p = true, .columns = 8}>(9, 3003, seed, 2.0f);
  }
}

/// Where top_p ends among elements of one value, as it mostly does where logits are rounded, the index decides.
TEST(RaceKernel, EndsAmongEqualOnes) {
  for (uint32_t seed = 1; seed <= (kSanitized ? 3 : 6); ++seed) {
    const float step = float(seed % 3 + 1);  // the larger, the more of them
    const auto rounded = [step](float x) { return std::round(x / step) * step; };
    const auto powers = [&](auto& rows) {
      using T = std::remove_cvref_t<decltype(rows.data[0])>;
      for (T& x : rows.data)
        if (to_float(x) > 0) x = from_float<T>(std::exp2(rounded(std::log2(to_float(x)))));
    };
    const auto whole = [&](auto& rows) {
      using T = std::remove_cvref_t<decltype(rows.data[0])>;
      for (T& x : rows.data) x = from_float<T>(rounded(to_float(x)));
    };
    const auto equal = [&](auto& rows) { std::fill(rows.data.begin(), rows.data.end(), rows.data[0]); };
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8}>(9, 4099, seed, 1, 1, 1, powers);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 2, .columns = 8}>(9, 5001, seed, 1, 0.8f, 1, powers);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8, .candidates = 64}>(9, 4099, seed, 1, 0.9f, 1, powers);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 2, .candidates = 256}>(9, 5001, seed, 1, 0.5f, 1, powers);
    expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .columns = 8}>(9, 5003, seed, 1, 1, 1, whole);
    expect_same_race<RaceConfig{.input = DType::bf16, .values = kLogits, .top_p = true, .cluster = 2}>(9, 5003, seed, 1, 0.9f, 1, whole);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 4, .columns = 4}>(9, 5001, seed, 1, 0.9f, 1, powers);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8}>(9, 4099, seed, 1, 1, 1, equal);
    expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .cluster = 2}>(9, 5001, seed, 1, 1, 1, equal);
    expect_same_race<RaceConfig{.input = DType::bf16, .values = kLogits, .top_p = true, .columns = 8}>(9, 5003, seed, 1, 0.9f, 1, equal);
  }
}

/// In shared memory, where no look but the first waits.
TEST(RaceKernel, SlicesThatAreHeld) {
  for (uint32_t seed = 1; seed <= (kSanitized ? 2 : 3); ++seed) {
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 2, .chunks = 4}>(9, 5003, seed);
    expect_same_race<RaceConfig{.values = kProbs, .min_p = true, .cluster = 4, .chunks = 2}>(9, 8002, seed);
    expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .cluster = 2, .chunks = 3}>(9, 5003, seed, 0.8f);
    expect_same_race<RaceConfig{.values = kLogits, .min_p = true, .cluster = 2, .chunks = 4}>(9, 4999, seed, 0.9f);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .min_p = true, .cluster = 4, .chunks = 2}>(9, 5001, seed);
    expect_same_race<RaceConfig{.input = DType::bf16, .values = kLogits, .top_p = true, .min_p = true, .chunks = 2}>(9, 3003, seed, 2.0f);
    expect_same_race<RaceConfig{.input = DType::f16, .values = kProbs, .top_p = true, .cluster = 2, .chunks = 1}>(9, 777, seed);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 8, .chunks = 2}>(3, 5, seed);
  }
  expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 2, .chunks = 2}>(9, 1500, 1, 1, 0.2f);
  expect_same_race<RaceConfig{.values = kProbs, .min_p = true, .cluster = 2, .chunks = 2}>(9, 1500, 1, 1, 1, 3e4f);
}
TEST(RaceKernel, TakesWhatDoesNotSumToOne) {
  for (uint32_t seed = 1; seed <= (kSanitized ? 3 : 8); ++seed)
    for (float sum : {300.0f, 20.0f, 1e-6f})
      expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 4}>(9, 1500, seed, 1, 1, sum);
}
/// Probabilities below 0, whose bits are above all others: they weigh nothing, and what they would take from the mass is much.
TEST(RaceKernel, TakesWhatIsNegative) {
  const auto edit = [](auto& rows) {
    using T = std::remove_cvref_t<decltype(*rows.row(0))>;
    for (int64_t r = 0; r < rows.num_rows; ++r)
      for (int64_t i = r; i < rows.vocab_size; i += r % 2 ? 41 : 997)
        rows.row(r)[i] = from_float<T>(r % 3 == 0 ? -0.0f : r % 3 == 1 ? -0.02f : -kInfinity);
  };
  for (uint32_t seed = 1; seed <= (kSanitized ? 2 : 4); ++seed) {
    expect_same_race<RaceConfig{.values = kProbs}>(9, 4099, seed, 1, 1, 1, edit);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8}>(9, 4099, seed, 1, 1, 1, edit);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 4, .columns = 4}>(9, 5001, seed, 1, 0.8f, 1, edit);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 2, .candidates = 256}>(9, 9001, seed, 1, 0.5f, 1, edit);
    expect_same_race<RaceConfig{.values = kProbs, .min_p = true, .cluster = 4, .chunks = 2}>(9, 8002, seed, 1, 1, 1, edit);
    expect_same_race<RaceConfig{.input = DType::bf16, .values = kProbs, .top_p = true, .columns = 4}>(9, 3001, seed, 1, 1, 1, edit);
  }
}

/// What is listed races, where it fits and weighs enough; else the whole row does.
TEST(RaceKernel, ListsWhatMayBeKept) {
  for (uint32_t seed = 1; seed <= (kSanitized ? 1 : 4); ++seed)
    for (float part : {1.0f, 0.5f, 0.05f}) {
      expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8, .candidates = 128, .count_bits = 0}>(9, 9001, seed, 1,
                                                                                                                      part);
      expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 4, .columns = 4, .candidates = 32}>(9, 8003, seed, 1, part);
      if (seed % 4) continue;
      expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .threads = 512, .cluster = 2, .candidates = 400, .count_bits = 8}>(
          9, 12000, seed, 1, part);
      expect_same_race<RaceConfig{.input = DType::bf16, .values = kProbs, .top_p = true, .columns = 4, .candidates = 256, .count_bits = 0}>(
          9, 7001, seed, 1, part);
      expect_same_race<RaceConfig{.input = DType::f16, .values = kProbs, .top_p = true, .cluster = 2, .candidates = 64, .count_bits = 0}>(
          9, 777, seed, 1, part);
    }
  for (uint32_t seed = 1; seed <= (kSanitized ? 2 : 4); ++seed)
    for (float sum : {300.0f, 20.0f, 0.3f, 1e-6f, 1e20f})
      expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 4, .candidates = 256}>(9, 1500, seed, 1, 1, sum);
}

/// What a sample says is not kept does not race at first. Where it is kept, for the row does not sum to one, all race.
TEST(RaceKernel, LeavesOutWhatASampleSays) {
  for (uint32_t seed = 1; seed <= (kSanitized ? 2 : 8); ++seed)
    for (float sum : {1.0f, 0.9f, 0.6f, 0.3f}) {
      expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8, .candidates = 8}>(9, 9001, seed, 1, 1, sum);
      expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 2, .candidates = 8}>(9, 9001, seed, 1, 0.8f, sum);
    }
}

/// What a sample is not sure of is noted, if it is better than what it is sure of, and wins if it is kept: a fourth of the mass lies around
/// the boundary, in elements that differ by less than the sample's error. Where these come first, there is no room for them, and all race;
/// where the row weighs more than one, the boundary lies higher than the sample says.
TEST(RaceKernel, NotesWhatASampleIsNotSureOf) {
  bool mixed = true;
  const auto edit = [&mixed](Rows<float>& rows) {
    for (int64_t r = 0; r < rows.num_rows; ++r)
      for (int64_t i = 0; i < rows.vocab_size; ++i) {
        const int64_t place = mixed ? (i * 7919 + r) % 1000 : 1000 * i / rows.vocab_size;
        const float small = float((i * 104729 + r * 31) % 1009) / 1009;
        const float x = place < 375 ? 0.55f + 0.5f * small : place < 625 ? 0.01f * small : 2.2f + small;
        rows.row(r)[i] = x / (float(rows.vocab_size) * 1.315f);
      }
  };
  for (uint32_t seed = 1; seed <= (kSanitized ? 3 : 12); ++seed) {
    mixed = seed % 2;
    const float sum = mixed ? 1 + 0.02f * float(seed % 8) : 1;
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8, .candidates = 8}>(9, 9001, seed, 1, 1, sum, edit);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .threads = 512, .columns = 8, .candidates = 8, .count_bits = 9}>(
        9, 12001, seed, 1, 0.97f, sum, edit);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 2, .columns = 4, .candidates = 8}>(9, 9001, seed, 1, 0.9f, sum,
                                                                                                               edit);
  }
}

/// Where counts leave open whether it is kept, it is asked once more: by a bin that begins where the sample takes all for kept, for the row
/// weighs three, and in which the boundary lies; by one of what the sample is not sure of, half of which is kept.
TEST(RaceKernel, AsksWhereCountsLeaveOpen) {
  bool above = true;
  const auto edit = [&above](Rows<float>& rows) {
    constexpr float kEdge = 1.0f / 4096;  // of a bin of the sample, and of the counts
    for (int64_t r = 0; r < rows.num_rows; ++r)
      for (int64_t i = 0; i < rows.vocab_size; ++i) {
        const int64_t place = (i * 7919 + r) % rows.vocab_size;
        const float small = float((i * 104729 + r * 31) % 1009) / 1009;
        const float x = above ? (place < 1000   ? 8
                                 : place < 4670 ? 1 + 0.007f * small
                                 : place < 5540 ? 0.98f + 0.01f * small
                                                : 1e-6f)
                              : (place < 400    ? 8
                                 : place < 1200 ? 1.0245f + 0.006f * small
                                                : 1e-6f);
        rows.row(r)[i] = x * kEdge;
      }
  };
  for (uint32_t seed = 1; seed <= (kSanitized ? 2 : 24); ++seed) {
    above = seed % 2;
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8, .candidates = 8}>(9, 9001, seed, 1, 1, 1, edit);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 2, .columns = 4, .candidates = 8}>(9, 9001, seed, 1, 1, 1,
                                                                                                               edit);
  }
}

/// Two score the same: one of what the sample is not sure of, and, behind it, one that it is sure of, whoever is met first. The first one
/// wins.
TEST(RaceKernel, NotesWhatIsAsGood) {
  for (uint32_t seed = 1; seed <= (kSanitized ? 2 : 16); ++seed) {
    int64_t equal = 0;
    const auto edit = [&](Rows<float>& rows) {
      constexpr float kEdge = 1.0f / 4096;
      constexpr int64_t kTogether = 2048;  // that are met in one turn
      for (int64_t r = 0; r < rows.num_rows; ++r) {
        float* const x = rows.row(r);
        for (int64_t i = 0; i < rows.vocab_size; ++i) {
          const int64_t place = (i * 7919 + r) % rows.vocab_size;
          x[i] = kEdge * (place < 400 ? 8 : place < 1200 ? 1.0245f + 0.006f * float(i % 1009) / 1009 : 1e-6f);
        }
        const auto noise = [&](int64_t i) { return exponential_noise(noise_bits(seed, 5, uint32_t(r), uint32_t(i))); };
        int64_t first = 0, second = 0;
        for (int64_t i = 0; i < kTogether / 2; ++i)
          if (noise(i) < noise(first)) first = i;
        for (int64_t i = first + 1; i < kTogether; ++i)
          if (noise(i) > 2 * noise(first) && noise(i) < 16 * noise(first)) second = i;
        if (second == 0) continue;
        x[first] = 1.03f * kEdge, x[second] = x[first] * noise(second) / noise(first);
        for (int i = 0; i < 8 && x[first] / noise(first) < x[second] / noise(second); ++i) x[first] = std::nextafter(x[first], 1.0f);
        for (int i = 0; i < 8 && x[first] / noise(first) > x[second] / noise(second); ++i) x[second] = std::nextafter(x[second], 1.0f);
        equal += x[first] / noise(first) == x[second] / noise(second);
      }
    };
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .candidates = 8}>(9, 9001, seed, 1, 1, 1, edit);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 2, .candidates = 8}>(9, 9001, seed, 1, 1, 1, edit);
    EXPECT_GE(equal, 4);
  }
}

/// One warp meets more than it has room for, where no sample looks; what is listed weighs enough, but does not come first.
TEST(RaceKernel, ListsNothingIfAWarpHasNoRoom) {
  const auto edit = [](Rows<float>& rows) {
    for (int64_t r = 0; r < rows.num_rows; ++r) {
      std::fill_n(rows.row(r), rows.vocab_size, 0.08f / float(rows.vocab_size));
      std::fill_n(rows.row(r) + 5504, 8, 0.04f), std::fill_n(rows.row(r) + 5512, 4, 0.07f);
      std::fill_n(rows.row(r) + 1664, 8, 0.04f);
    }
  };
  for (uint32_t seed = 1; seed < 4; ++seed)
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8, .candidates = 8}>(9, 9001, seed, 1, 0.6f, 1, edit);
}

/// Rows whose columns race three times and more.
TEST(RaceKernel, RacesAgain) {
  for (uint32_t seed = 20; seed < (kSanitized ? 24 : 60); ++seed) {
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .columns = 8}>(9, 1500, seed, 1, 0.2f);
    expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .columns = 4}>(9, 1500, seed, 1, 0.2f);
    expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 4, .columns = 4}>(9, 3001, seed, 1, 0.3f);
    if (seed % 4 == 0) expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 8}>(9, 4001, seed, 1, 0.3f);
  }
}
/// The best of a column had no chance in one race, where something less had one, and wins the next.
TEST(RaceKernel, ColumnsForgetNobody) {
  expect_same_race<RaceConfig{.values = kProbs, .top_p = true, .cluster = 8, .columns = 4}>(9, 8032, 16410, 1, 0.22f);
}

/// Where temperatures are so low that rounded scores of logits cannot tell elements apart, or so high that logits vanish in them, the
/// exact race decides.
TEST(RaceKernel, SettlesCloseScores) {
  for (uint32_t seed = 1; seed <= (kSanitized ? 1 : 3); ++seed)
    for (float temperature : {1e-30f, 1e-7f, 3e-5f, 1e-3f, 1e4f, 1e30f}) {
      expect_same_race<RaceConfig{.values = kLogits, .cluster = 2}>(9, 4001, seed, temperature);
      expect_same_race<RaceConfig{.input = DType::bf16, .values = kLogits}>(9, 1001, seed, temperature);
      expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .columns = 4}>(9, 1001, seed, temperature);
      expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .cluster = 4, .columns = 2}>(9, 3001, seed, temperature, 0.5f);
    }
}
/// Two elements, of one thread or two, whose scores are equal but for a rounding of their logits.
TEST(RaceKernel, SettlesTwoThatAreClose) {
  constexpr int64_t kRows = 9, kVocab = 1001;
  for (uint32_t seed = 1; seed <= (kSanitized ? 3 : 12); ++seed) {
    const auto edit = [seed](Rows<float>& rows) {
      for (int64_t r = 0; r < kRows; ++r) {
        std::fill_n(rows.row(r), kVocab, -9.0f);
        for (int64_t i : {r, r % 3 ? r + 1 : kVocab - 99 * (r + 1)})
          rows.row(r)[i] = 9 + std::log(exponential_noise(noise_bits(seed, 5, uint32_t(r), uint32_t(i))));
      }
    };
    expect_same_race<RaceConfig{.values = kLogits}>(kRows, kVocab, seed, 1, 1, 1, edit);
    if (seed > 3) continue;
    expect_same_race<RaceConfig{.values = kLogits, .cluster = 2}>(kRows, kVocab, seed, 1, 1, 1, edit);
    expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .cluster = 2, .columns = 4}>(kRows, kVocab, seed, 1, 1, 1, edit);
    expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .cluster = 4}>(kRows, kVocab, seed, 1, 1, 1, edit);
    expect_same_race<RaceConfig{.values = kLogits, .min_p = true, .columns = 4}>(kRows, kVocab, seed, 1, 1, 1, edit);
  }
}
/// Steps of one float of a logit that are a tenth of an octave of its weight: where counts say that top_p ends lies between two floats.
TEST(RaceKernel, CountsLogitsThatAreCoarse) {
  const auto edit = [](Rows<float>& rows) {
    for (int64_t r = 0; r < 9; ++r)
      for (int64_t i = 0; i < 3001; ++i) rows.row(r)[i] = float(9 + r) - float((i * 37 + r) % 61) * 9.5367431640625e-7f;
  };
  for (uint32_t seed = 1; seed <= (kSanitized ? 3 : 6); ++seed)
    for (float temperature : {7e-6f, 1.1e-5f})
      expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .columns = 4}>(9, 3001, seed, temperature, 1, 1, edit);
}
/// Where logits are far apart, and the largest far above those of a sample, or weigh the same.
TEST(RaceKernel, CountsLogitsOfAnyWidth) {
  for (uint32_t seed = 1; seed <= (kSanitized ? 1 : 2); ++seed)
    for (float temperature : {0.02f, 0.1f, 0.3f, 2.0f, 10.0f}) {
      expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .columns = 8}>(9, 3001, seed, temperature);
      expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .threads = 512, .cluster = 2, .columns = 16, .count_bits = 8}>(
          9, 5001, seed, temperature, 0.7f);
      expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .cluster = 4}>(9, 3001, seed, temperature);
      expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .columns = 8, .count_bits = 0}>(9, 3001, seed, temperature);
    }
}
/// Logits far above 1 between what a sample looks at, for as many threads as a row ever has: their counts say nothing, and sums of what
/// 8192 threads do not know must not pass for an answer.
TEST(RaceKernel, CountsSayNothingOfWhatASampleMissed) {
  constexpr int64_t kVocab = 20000;
  for (uint32_t seed = 1; seed <= (kSanitized ? 1 : 4); ++seed)
    expect_same_race<RaceConfig{.values = kLogits, .top_p = true, .threads = 512, .cluster = 16}>(
        3, kVocab, 4 * seed, 1, 0.6f, 1, [](Rows<float>& rows) {
          for (int64_t r = 0; r < 3; ++r)
            for (int64_t i = 0; i < kVocab; ++i) rows.row(r)[i] = i / 200 == 3 ? 36 - float((i * 37 + r) % 199) * 0.05f : -kInfinity;
        });
}

/// Every warp lists what it meets, or knows that there was no room, and writes nowhere else.
template <int kAtOnce>
void list_what_fits() {
  constexpr int kThreads = 64, kRoom = 40, kVecs = 9;
  using Candidates = gpu::RowCandidates<kThreads, kRoom, 8>;
  struct Smem {
    typename Candidates::Smem candidates;
    uint32_t behind[4];
  };
  std::mt19937 random(3);
  int most_listed = 0, least_lost = 1000;
  for (uint32_t seed = 1; seed <= 120; ++seed) {
    std::vector<float> x(size_t(kThreads * kVecs * 8));
    std::uniform_real_distribution<float> uniform(0, 1);
    const float share = uniform(random) * 0.04f;
    for (float& element : x) element = uniform(random) < share ? 1 + uniform(random) : 0.0f;
    std::vector<std::pair<int, float>> expected[2], listed[2];
    for (int i = 0; i < int(x.size()); ++i)
      if (x[size_t(i)] >= 1) expected[i / (kVecs * 8) / 32].push_back({i, x[size_t(i)]});
    bool fit[2] = {};
    std::vector<uint32_t> behind;
    emulation::Block::run_grid(1, kThreads, sizeof(Smem), seed, [&] {
      Smem& smem = *reinterpret_cast<Smem*>(gpu::dynamic_smem());
      const int thread = int(threadIdx.x), warp = thread / 32;
      if (thread < 4) smem.behind[thread] = 77;
      __syncthreads();
      Candidates candidates(smem.candidates);
      for (int i = 0, place = Candidates::first_place(); i < kVecs * 8; i += 4) {
        float four[4];
        for (int j = 0; j < 4; ++j) four[j] = x[size_t(thread * kVecs * 8 + i + j)];
        candidates.add(four, place, 1.0f);
        place = Candidates::next_place<4>(place);
      }
      fit[warp] = candidates.fit();
      if (fit[warp])
        candidates.for_each<kAtOnce>([&](int of, int vec, int j) { return of * kVecs * 8 + vec * 8 + j; },
                                     [&](const float(&element)[kAtOnce], const auto& index_of_one) {
                                       for (int k = 0; k < kAtOnce; ++k)
                                         if (element[k] != 0) listed[warp].push_back({index_of_one(k), element[k]});
                                     });
      __syncthreads();
      if (thread == 0) behind.assign(smem.behind, smem.behind + 4);
    });
    EXPECT_EQ(behind, std::vector<uint32_t>(4, 77));
    for (int warp = 0; warp < 2; ++warp) {
      const int count = int(expected[warp].size());
      if (count <= kRoom - 4) EXPECT_TRUE(fit[warp]) << count;
      if (count > kRoom) EXPECT_FALSE(fit[warp]) << count;
      if (!fit[warp]) {
        least_lost = std::min(least_lost, count);
        continue;
      }
      most_listed = std::max(most_listed, count);
      std::sort(listed[warp].begin(), listed[warp].end());
      EXPECT_EQ(listed[warp], expected[warp]) << seed;
    }
  }
  EXPECT_GE(most_listed, kRoom - 6);
  EXPECT_LE(least_lost, kRoom + 6);
}
TEST(RowCandidates, ListWhatFits) {
  list_what_fits<1>();
  list_what_fits<2>();
  list_what_fits<4>();
}
/// Beyond what 32 bits hold of sums.
TEST(MassSum, AddsUpLongRows) {
  std::mt19937 random(5);
  std::vector<float> f(size_t(4 * 1500));
  for (size_t i = 0; i < f.size(); ++i) f[i] = i % 3 ? float(random()) * 0x1p-32f : 1 - float(random()) * 0x1p-50f;
  uint64_t expected = 0, expected_part = 0;
  for (size_t i = 0; i < f.size(); ++i) expected += mass_of(f[i]), expected_part += i % 7 < 3 ? mass_of(f[i]) : 0;
  uint64_t total = 0, part_total = 0;
  emulation::Block::run_grid(1, 32, 16, 1, [&] {
    gpu::MassSum sum, part;
    for (size_t i = 0; i < f.size(); i += 4) {
      float four[4];
      bool counts[4];
      for (size_t j = 0; j < 4; ++j) four[j] = f[i + j], counts[j] = (i + j) % 7 < 3;
      sum.add(four, counts, part);
    }
    if (threadIdx.x == 0) total = sum.total(), part_total = part.total();
  });
  EXPECT_EQ(total, expected);
  EXPECT_EQ(part_total, expected_part);
  // As many of the largest as are summed in 32 bits.
  emulation::Block::run_grid(1, 32, 16, 1, [&] {
    gpu::MassSum sum;
    for (int i = 0; i < gpu::MassSum::kAtOnce; i += 8) sum.add_few({1, 1, 1, 1, 1, 1, 1, 1});
    if (threadIdx.x == 0) total = sum.total();
  });
  EXPECT_EQ(total, uint64_t(gpu::MassSum::kAtOnce) * mass_of(1.0f));
}

/// What a row seems to weigh, as log2: by what the kernel samples, wherever the row begins.
template <RaceConfig kConfig>
std::vector<float> anchors(const number_t<kConfig.input>* row, int vocab_size) {
  using Row = gpu::RaceRow<kConfig>;
  std::vector<float> anchors(kConfig.cluster);
  emulation::Block::run_grid(
      kConfig.cluster, kConfig.threads, size_t(kConfig.smem_bytes()), 1,
      [&] {
        Row sampled(*reinterpret_cast<typename Row::Smem*>(gpu::dynamic_smem()), row, vocab_size);
        sampled.weight.scale = kLog2e;
        sampled.set_anchor();
        if (threadIdx.x == 0) anchors[size_t(Row::Group::rank())] = sampled.anchor();
        Row::Group::sync();
      },
      kConfig.cluster);
  return anchors;
}
TEST(RaceRow, AnchorIsNearTheMass) {
  for (uint32_t seed = 0; seed < 9; ++seed)  // strides and beginnings that are no multiple of a vector
    for (int64_t r = 0; r < 9; ++r) {
      Rows<float> rows(9, 20011, false, seed, int(seed % 4));
      const Shape shape = kShapes[r];
      const bool unseen = shape == Shape::empty || (shape == Shape::masked && seed % 2);    // the sample has nothing
      if (shape == Shape::nan || shape == Shape::peaked || shape == Shape::zipf) continue;  // no sample tells
      double total = 0;
      for (int64_t i = 0; i < rows.vocab_size; ++i) total += std::exp(double(rows.row(r)[i]));
      const std::vector<float> found =
          anchors<RaceConfig{.values = kLogits, .top_p = true, .cluster = 2}>(rows.row(r), int(rows.vocab_size));
      EXPECT_EQ(found[0], found[1]);
      if (unseen) {
        EXPECT_EQ(found[0], 0) << seed << " " << r;
      } else {
        EXPECT_NEAR(found[0], std::log2(total), 4) << seed << " " << r;
      }
    }
  // One element in a sample of 1024 that is the row's mass is not taken for one of many.
  std::vector<float> x(20011, -3.0f);
  x[5] = 20;
  EXPECT_NEAR((anchors<RaceConfig{.values = kLogits, .top_p = true}>(x.data(), int(x.size()))[0]), 20 * kLog2e, 1);
}

/// What counts tell of a row, by element: 1 if it is surely kept, -1 if surely not.
template <RowValues kValues, int kThreads, int kCluster, int kBits>
std::vector<int> told_by_counts(const float* x, int vocab_size, float top_p) {
  using Group = gpu::RowGroup<kThreads, kCluster>;
  using Counts = gpu::WeightCounts<kValues, kThreads, Group, kCluster, kBits>;
  const float largest = *std::max_element(x, x + vocab_size);
  struct Smem {
    typename Counts::Smem counts;
    typename Group::Smem group;
  };
  typename Counts::Edges edges{};
  emulation::Block::run_grid(
      kCluster, kThreads, sizeof(Smem), 1,
      [&] {
        Smem& smem = *reinterpret_cast<Smem*>(gpu::dynamic_smem());
        const Counts counts(smem.counts);
        Group group(smem.group);
        counts.clear();
        Group::sync();
        float seen = 0;
        for (int i = Group::rank() * kThreads + int(threadIdx.x); i < vocab_size; i += kThreads * kCluster) counts.add(x[i]), seen += x[i];
        counts.tell(seen);
        group.max(0);
        const typename Counts::Edges found = counts.find(top_p, largest, 1e-4f);
        if (threadIdx.x == 0 && Group::rank() == 0) edges = found;
      },
      kCluster);
  std::vector<int> told(static_cast<size_t>(vocab_size));
  for (int i = 0; i < vocab_size; ++i) {
    const int bin = Counts::bin_or_none(x[i]);
    told[size_t(i)] = bin > edges.last ? 1 : bin < edges.first ? -1 : 0;
  }
  return told;
}
/// Of what lies below the octaves that are looked at nothing is known, even if it is so much that top_p ends there.
TEST(WeightCounts, SayNothingOfWhatTheyDoNotLookAt) {
  std::vector<float> x(3'500'000, 1.9e-3f);  // 8e-4 of the mass
  x[77] = 8388607;                           // at the upper edge of its bin
  for (float top_p : {0.9996f, 1.0f}) {
    const std::vector<int> told = told_by_counts<kLogits, 512, 1, 8>(x.data(), int(x.size()), top_p);
    EXPECT_EQ(told[77], 1);
    EXPECT_EQ(std::count(told.begin(), told.end(), 0), int64_t(x.size()) - 1);
  }
}
/// Never wrong, and unknown of less than a hundredth of the mass, but for two elements and ties, where the boundary is counted.
TEST(WeightCounts, TellWhatIsKept) {
  for (int vocab_size : {40, 3000, 60000})
    for (uint32_t seed : {3, 4}) {
      Rows<float> rows(9, vocab_size, true, seed);
      for (int64_t r = 0; r < (kSanitized ? 1 : 7); ++r)
        for (float top_p : {0.0f, 0.05f, 0.5f, 0.9f, 0.995f, 1.0f})
          for (float sum : {1.0f, 0.01f, 30.0f, 1e12f}) {
            // Of logits they may be far above 1, some by more than the octaves that are looked at.
            std::vector<float> x(rows.row(r), rows.row(r) + vocab_size);
            for (float& v : x) v = std::isnan(v) ? 0 : std::min(v > 0.002f || sum < 1e6f ? v * sum : v, sum < 1e6f ? 1.9f : 1e13f);
            std::vector<int> order(x.size());
            for (size_t i = 0; i < x.size(); ++i) order[i] = int(i);
            std::stable_sort(order.begin(), order.end(), [&](int i, int j) { return x[size_t(i)] > x[size_t(j)]; });
            const double total = std::accumulate(x.begin(), x.end(), 0.0);
            const auto told = sum > 1e6f  ? told_by_counts<kLogits, 256, 2, 8>(x.data(), vocab_size, top_p)
                              : seed == 3 ? told_by_counts<kProbs, 256, 2, 8>(x.data(), vocab_size, top_p)
                              : sum < 1   ? told_by_counts<kLogits, 512, 1, 8>(x.data(), vocab_size, top_p)
                                          : told_by_counts<kProbs, 512, 1, 9>(x.data(), vocab_size, top_p);
            double before = 0, unknown = 0, own = 0;
            bool counted = false;
            int unknowns = 0;
            for (int i : order) {
              const bool kept = before < top_p * total;
              if (told[size_t(i)]) EXPECT_EQ(told[size_t(i)] > 0, kept) << r << " " << top_p << " " << sum << " " << x[size_t(i)];
              if (kept) counted = x[size_t(i)] >= 1e-5f, own = x[size_t(i)];
              if (!told[size_t(i)] && ++unknowns > 2) unknown += x[size_t(i)];
              before += x[size_t(i)];
            }
            const double tied = own * double(std::count_if(x.begin(), x.end(), [&](float v) { return std::abs(v - own) < 0.01 * own; }));
            if (counted && top_p > 0 && top_p < 1) EXPECT_LE(unknown, 0.01 * total + tied) << r << " " << top_p << " " << sum;
          }
    }
}

}  // namespace
}  // namespace flashinfer
