// Every vector operation in every ISA that this machine has, against core/number.hpp and double.
#include <flashinfer/cpu/vec.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace flashinfer::cpu {
namespace {

std::vector<IsaLevel> levels() {
  std::vector<IsaLevel> found;
  for (IsaLevel level : {IsaLevel::baseline, IsaLevel::avx2, IsaLevel::avx512, IsaLevel::avx512_bf16})
    if (level <= best_isa()) found.push_back(level);
  return found;
}

class Vec : public testing::TestWithParam<IsaLevel> {
 protected:
  template <class F>
  void run(const F& f) {
    dispatch_isa<IsaLevel::avx512_bf16>(GetParam(), f);
  }
};
INSTANTIATE_TEST_SUITE_P(Isa, Vec, testing::ValuesIn(levels()), [](const auto& test) { return std::string(name_of(test.param)); });

bool same_float(float a, float b) { return std::isnan(a) ? std::isnan(b) : bit_cast<uint32_t>(a) == bit_cast<uint32_t>(b); }

template <class T, class Bits>
void expect_loads_widen_exactly(auto run) {
  constexpr int kCount = 1 << (8 * sizeof(Bits));
  std::vector<T> in(kCount);
  for (int i = 0; i < kCount; ++i) in[i] = T{Bits(i)};
  std::vector<float> out(kCount, -1.0f);
  run([&](auto isa) {
    using I = decltype(isa);
    for (int i = 0; i < kCount; i += I::kLanes) I::store(&out[i], I::load(&in[i]));
  });
  for (int i = 0; i < kCount; ++i) ASSERT_TRUE(same_float(out[i], to_float(in[i]))) << i << ": " << out[i] << " not " << to_float(in[i]);
}

TEST_P(Vec, LoadsWidenExactly) {
  auto with = [&](const auto& f) { run(f); };
  expect_loads_widen_exactly<f16, uint16_t>(with);
  expect_loads_widen_exactly<bf16, uint16_t>(with);
  expect_loads_widen_exactly<e4m3, uint8_t>(with);
  expect_loads_widen_exactly<e5m2, uint8_t>(with);
}

/// Every value of the 16-bit formats, the midpoints between neighbours, and both sides of the midpoints.
template <class T>
std::vector<float> rounding_cases() {
  std::vector<float> cases;
  for (uint32_t i = 0; i < (1u << 16); ++i) {
    const float value = to_float(bf16{uint16_t(i)});
    for (int offset : {-1, 0, 1}) {
      cases.push_back(bit_cast<float>(bit_cast<uint32_t>(value) + offset));
      cases.push_back(bit_cast<float>((i << 16 | 0x8000u) + offset));
    }
  }
  constexpr int kCount = 1 << (8 * sizeof(T));
  for (int i = 0; i + 1 < kCount; ++i) {
    const float a = to_float(T{decltype(T::bits)(i)}), b = to_float(T{decltype(T::bits)(i + 1)});
    const float middle = a / 2 + b / 2;
    for (float x : {a, middle, std::nextafter(middle, -kInfinity), std::nextafter(middle, kInfinity)}) cases.push_back(x);
  }
  while (cases.size() % 16) cases.push_back(0.0f);
  return cases;
}

template <class T>
void expect_stores_round_to_nearest_even(auto run) {
  const std::vector<float> in = rounding_cases<T>();
  std::vector<T> out(in.size());
  run([&](auto isa) {
    using I = decltype(isa);
    for (size_t i = 0; i < in.size(); i += I::kLanes) I::store(&out[i], I::load(&in[i]));
  });
  for (size_t i = 0; i < in.size(); ++i) {
    const T expected = from_float<T>(in[i]);
    ASSERT_TRUE(out[i].bits == expected.bits || (std::isnan(in[i]) && std::isnan(to_float(out[i]))))
        << in[i] << ": " << to_float(out[i]) << " not " << to_float(expected);
  }
}

TEST_P(Vec, StoresRoundToNearestEven) {
  auto with = [&](const auto& f) { run(f); };
  expect_stores_round_to_nearest_even<f16>(with);
  expect_stores_round_to_nearest_even<bf16>(with);
  expect_stores_round_to_nearest_even<e4m3>(with);
  expect_stores_round_to_nearest_even<e5m2>(with);
}

template <class T>
void expect_tails_touch_nothing_else(auto run) {
  run([&](auto isa) {
    using I = decltype(isa);
    for (int count = 1; count <= I::kLanes; ++count) {
      std::vector<T> in(count), out(I::kLanes + 1);  // exact size: a sanitizer sees a byte read too many
      for (int i = 0; i < count; ++i) in[i] = from_float<T>(float(i + 1));
      for (T& x : out) x = from_float<T>(-3.0f);
      float wide[I::kLanes];
      const typename I::F a = I::load(in.data(), count);
      I::store(wide, a);
      for (int i = 0; i < I::kLanes; ++i) EXPECT_EQ(wide[i], i < count ? to_float(from_float<T>(float(i + 1))) : 0.0f);
      I::store(out.data(), a, count);
      for (int i = 0; i <= I::kLanes; ++i) EXPECT_EQ(to_float(out[i]), i < count ? to_float(from_float<T>(float(i + 1))) : -3.0f);
    }
  });
}

TEST_P(Vec, TailsTouchNothingElse) {
  auto with = [&](const auto& f) { run(f); };
  expect_tails_touch_nothing_else<float>(with);
  expect_tails_touch_nothing_else<f16>(with);
  expect_tails_touch_nothing_else<bf16>(with);
  expect_tails_touch_nothing_else<e4m3>(with);
  expect_tails_touch_nothing_else<e5m2>(with);
}

TEST_P(Vec, Lanes) {
  run([](auto isa) {
    using I = decltype(isa);
    using F = typename I::F;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    constexpr int n = I::kLanes;
    float a[n], b[n], c[n], out[n];
    for (int i = 0; i < n; ++i) a[i] = normal(random), b[i] = normal(random), c[i] = normal(random);
    const F x = I::load(a), y = I::load(b), z = I::load(c);
    auto expect = [&](const F& got, auto&& f, float tolerance = 0.0f) {
      I::store(out, got);
      for (int i = 0; i < n; ++i) EXPECT_NEAR(out[i], f(i), tolerance) << i;
    };
    expect(x + y, [&](int i) { return a[i] + b[i]; });
    expect(x - y, [&](int i) { return a[i] - b[i]; });
    expect(x * y, [&](int i) { return a[i] * b[i]; });
    expect(x / y, [&](int i) { return a[i] / b[i]; });
    expect(I::fma(x, y, z), [&](int i) { return a[i] * b[i] + c[i]; }, 1e-6f);
    expect(I::max(x, y), [&](int i) { return std::max(a[i], b[i]); });
    expect(I::min(x, y), [&](int i) { return std::min(a[i], b[i]); });
    expect(I::abs(x), [&](int i) { return std::fabs(a[i]); });
    expect(I::sqrt(I::abs(x)), [&](int i) { return std::sqrt(std::fabs(a[i])); });
    expect(I::round(x * I::set(100.0f)), [&](int i) { return std::nearbyint(a[i] * 100.0f); });
    expect(I::round(I::iota() + I::set(0.5f)), [&](int i) { return std::nearbyint(i + 0.5f); });
    expect(I::select(I::less(x, y), z, x), [&](int i) { return a[i] < b[i] ? c[i] : a[i]; });
    for (int count = 0; count <= n; ++count) expect(I::select(I::first(count), x, y), [&](int i) { return i < count ? a[i] : b[i]; });
    expect(I::scale_by_power_of_two(x, I::set(-140.0f)), [&](int i) { return std::ldexp(a[i], -140); });
    double sum = 0, most = -kInfinity;
    for (float value : a) sum += value, most = std::max(most, double(value));
    EXPECT_NEAR(I::sum(x), sum, 1e-5);
    EXPECT_EQ(I::max_of(x), most);
  });
}

/// The largest error of f against the exact function over [low, high], in units of the result's last place.
template <class F, class Exact>
double worst_ulps(auto run, float low, float high, const F& f, const Exact& exact) {
  constexpr int kCount = 1 << 20;
  std::vector<float> in(kCount), out(kCount);
  for (int i = 0; i < kCount; ++i) in[i] = low + (high - low) * (float(i) / kCount);
  run([&](auto isa) {
    using I = decltype(isa);
    for (int i = 0; i < kCount; i += I::kLanes) I::store(&out[i], f(isa, I::load(&in[i])));
  });
  double worst = 0;
  for (int i = 0; i < kCount; ++i) {
    const double value = exact(double(in[i]));
    const double ulp = std::ldexp(1.0, std::max(std::ilogb(value), -126) - 23);
    worst = std::max(worst, std::fabs(out[i] - value) / ulp);
  }
  return worst;
}

TEST_P(Vec, ExponentialsAreAccurate) {
  auto with = [&](const auto& f) { run(f); };
  auto exp_f = [](auto isa, const auto& x) { return exp<decltype(isa)>(x); };
  auto exp2_f = [](auto isa, const auto& x) { return exp2<decltype(isa)>(x); };
  EXPECT_LT(worst_ulps(with, -103.0f, 88.7f, exp_f, [](double x) { return std::exp(x); }), 2.0);
  EXPECT_LT(worst_ulps(with, -2.0f, 2.0f, exp_f, [](double x) { return std::exp(x); }), 2.0);
  EXPECT_LT(worst_ulps(with, -149.0f, 127.99f, exp2_f, [](double x) { return std::exp2(x); }), 2.0);
  EXPECT_LT(worst_ulps(with, -2.0f, 2.0f, exp2_f, [](double x) { return std::exp2(x); }), 2.0);
}

TEST_P(Vec, ExponentialsAtTheEdges) {
  run([](auto isa) {
    using I = decltype(isa);
    auto first = [](const typename I::F& a) {
      float out[I::kLanes];
      I::store(out, a);
      return out[0];
    };
    for (auto f : {+[](float x) { return exp<I>(I::set(x)); }, +[](float x) { return exp2<I>(I::set(x)); }}) {
      EXPECT_EQ(first(f(-kInfinity)), 0.0f);
      EXPECT_EQ(first(f(-1e30f)), 0.0f);
      EXPECT_EQ(first(f(0.0f)), 1.0f);
      EXPECT_EQ(first(f(1e30f)), kInfinity);
      EXPECT_EQ(first(f(kInfinity)), kInfinity);
      EXPECT_TRUE(std::isnan(first(f(std::numeric_limits<float>::quiet_NaN()))));
    }
  });
}

TEST_P(Vec, SigmoidTanhNormalCdf) {
  auto with = [&](const auto& f) { run(f); };
  EXPECT_LT(worst_ulps(
                with, -80.0f, 80.0f, [](auto isa, const auto& x) { return sigmoid<decltype(isa)>(x); },
                [](double x) { return 1 / (1 + std::exp(-x)); }),
            4.0);
  EXPECT_LT(worst_ulps(
                with, 0.1f, 20.0f, [](auto isa, const auto& x) { return tanh<decltype(isa)>(x); }, [](double x) { return std::tanh(x); }),
            16.0);
  EXPECT_LT(worst_ulps(
                with, -12.9f, 8.0f, [](auto isa, const auto& x) { return normal_cdf<decltype(isa)>(x); },
                [](double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); }),
            160.0);
}

TEST(Isa, DotBf16AddsPairs) {
#if defined(__x86_64__)
  if (best_isa() < IsaLevel::avx512_bf16) GTEST_SKIP() << "needs avx512_bf16";
  dispatch_isa<IsaLevel::avx512_bf16>([](auto isa) {
    using I = decltype(isa);
    if constexpr (is_same_v<I, Avx512Bf16>) {
      bf16 a[32], b[32];
      for (int i = 0; i < 32; ++i) a[i] = from_float<bf16>(float(i + 1)), b[i] = from_float<bf16>(float(i % 5) - 2.0f);
      float out[16];
      I::store(out, I::dot_bf16(I::set(1.0f), a, b));
      for (int i = 0; i < 16; ++i)
        EXPECT_EQ(out[i], 1.0f + to_float(a[2 * i]) * to_float(b[2 * i]) + to_float(a[2 * i + 1]) * to_float(b[2 * i + 1]));
    } else {
      ADD_FAILURE() << "dispatched below avx512_bf16";
    }
  });
#endif
}

}  // namespace
}  // namespace flashinfer::cpu
