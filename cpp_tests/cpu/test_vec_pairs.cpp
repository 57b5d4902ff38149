// What attention's tiles need of the vectors beyond arithmetic: transposes, and pairs of bf16.
#include <flashinfer/cpu/vec.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

namespace flashinfer::cpu {
namespace {

class Transpose : public testing::TestWithParam<IsaLevel> {};
INSTANTIATE_TEST_SUITE_P(Isa, Transpose, testing::Values(IsaLevel::baseline, IsaLevel::avx2, IsaLevel::avx512),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST_P(Transpose, MovesEveryLane) {
  if (GetParam() > best_isa()) GTEST_SKIP() << "needs " << name_of(GetParam());
  dispatch_isa(GetParam(), [](auto isa) {
    using Isa = decltype(isa);
    constexpr int n = Isa::kLanes;
    float in[n * n], out[n * n];
    for (int i = 0; i < n * n; ++i) in[i] = float(i);
    typename Isa::F x[n];
    for (int i = 0; i < n; ++i) x[i] = Isa::load(in + i * n);
    Isa::transpose(x);
    for (int i = 0; i < n; ++i) Isa::store(out + i * n, x[i]);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) EXPECT_EQ(out[i * n + j], in[j * n + i]);
  });
}

#if defined(__x86_64__)

template <class F>
void with_pairs(const F& f) {
  if (best_isa() < IsaLevel::avx512_bf16) GTEST_SKIP() << "needs avx512_bf16";
  dispatch_isa<IsaLevel::avx512_bf16>([&](auto isa) {
    if constexpr (is_same_v<decltype(isa), Avx512Bf16>) f(isa);
  });
}

/// The 32 numbers of a vector of pairs.
std::vector<float> numbers(const Avx512::F& x) {
  bf16 bits[32];
  __builtin_memcpy(bits, &x, sizeof(bits));
  std::vector<float> out(32);
  for (int i = 0; i < 32; ++i) out[i] = to_float(bits[i]);
  return out;
}

template <class T, class Bits>
void expect_loads_exactly(auto isa) {
  using Isa = decltype(isa);
  std::vector<T> in(1 << (8 * sizeof(Bits)));
  for (size_t i = 0; i < in.size(); ++i) in[i] = T{Bits(i)};
  for (size_t i = 0; i < in.size(); i += 32) {
    const auto all = numbers(Isa::load_pairs(&in[i])), some = numbers(Isa::load_pairs(&in[i], 24));
    for (size_t j = 0; j < 32; ++j) {
      const float want = to_float(in[i + j]);
      const bool same = std::isnan(want) ? std::isnan(all[j]) : bit_cast<uint32_t>(all[j]) == bit_cast<uint32_t>(want);
      ASSERT_TRUE(same) << i + j << ": " << all[j] << " not " << want;
      ASSERT_TRUE(j < 24 ? bit_cast<uint32_t>(some[j]) == bit_cast<uint32_t>(all[j]) : some[j] == 0.0f) << i + j;
    }
  }
}

TEST(Pairs, LoadExactly) {
  with_pairs([](auto isa) {
    expect_loads_exactly<bf16, uint16_t>(isa);
    expect_loads_exactly<e4m3, uint8_t>(isa);
    expect_loads_exactly<e5m2, uint8_t>(isa);
  });
}

TEST(Pairs, ZipAlternates) {
  with_pairs([](auto isa) {
    using Isa = decltype(isa);
    bf16 a[32], b[32];
    for (int i = 0; i < 32; ++i) a[i] = from_float<bf16>(float(i)), b[i] = from_float<bf16>(float(100 + i));
    Avx512::F low, high;
    Isa::zip(Isa::load_pairs(a), Isa::load_pairs(b), low, high);
    const auto first = numbers(low), second = numbers(high);
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(first[2 * i], to_float(a[i]));
      EXPECT_EQ(first[2 * i + 1], to_float(b[i]));
      EXPECT_EQ(second[2 * i], to_float(a[16 + i]));
      EXPECT_EQ(second[2 * i + 1], to_float(b[16 + i]));
    }
  });
}

TEST(Pairs, DotAndStore) {
  with_pairs([](auto isa) {
    using Isa = decltype(isa);
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    bf16 a[32], b[32], stored[16];
    for (int i = 0; i < 32; ++i) a[i] = from_float<bf16>(normal(generator)), b[i] = from_float<bf16>(normal(generator));
    float in[16], out[16];
    for (float& x : in) x = normal(generator);
    Isa::store(out, Isa::dot_pairs(Isa::load(in), Isa::load_pairs(a), Isa::load_pairs(b)));
    Isa::store_bf16(stored, Isa::load(in));
    for (int i = 0; i < 16; ++i) {
      const double want =
          double(in[i]) + double(to_float(a[2 * i])) * to_float(b[2 * i]) + double(to_float(a[2 * i + 1])) * to_float(b[2 * i + 1]);
      EXPECT_NEAR(out[i], want, 1e-6);
      EXPECT_EQ(stored[i].bits, from_float<bf16>(in[i]).bits);
    }
  });
}

#endif

}  // namespace
}  // namespace flashinfer::cpu
