// Random bits, portable functions and the order of rows: known answers, and double.
#include <flashinfer/core/philox.hpp>
#include <flashinfer/core/portable_math.hpp>
#include <flashinfer/core/row_order.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace flashinfer {
namespace {

TEST(Philox, KnownAnswers) {  // of the authors' Random123
  struct Case {
    Philox counter;
    uint64_t key;
    uint32_t of_seven[4], of_ten[4];  // rounds
  };
  const Case cases[] = {
      {{{0, 0, 0, 0}}, 0, {0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{{~0u, ~0u, ~0u, ~0u}}, ~0ull, {0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       0x299f31d0a4093822ull,
       {0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Case& c : cases) {
    const Philox seven = philox(c.counter, c.key), ten = philox_further(seven, uint32_t(c.key), uint32_t(c.key >> 32));
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(seven.word[i], c.of_seven[i]);
      EXPECT_EQ(ten.word[i], c.of_ten[i]);
    }
  }
}

TEST(PortableMath, Exp2) {
  for (double x = -124.99; x < 126; x += 0.00037) ASSERT_NEAR(portable_exp2(float(x)) / std::exp2(double(float(x))), 1, 2e-7) << x;
  for (int n = -125; n <= 126; ++n) EXPECT_EQ(portable_exp2(float(n)), std::ldexp(1.0f, n));
  EXPECT_NEAR(portable_exp2(-125.49999f) / std::exp2(-125.49999), 1, 2e-6);
  EXPECT_EQ(portable_exp2(-125.5f), 0);
  EXPECT_EQ(portable_exp2(-1e30f), 0);
  EXPECT_EQ(portable_exp2(-kInfinity), 0);
  EXPECT_EQ(portable_exp2(std::numeric_limits<float>::quiet_NaN()), 0);
}

TEST(PortableMath, Ln) {
  const auto check = [](float x) { ASSERT_NEAR(portable_ln(x), std::log(double(x)), 3e-7 * std::fabs(std::log(double(x)))) << x; };
  for (double x = -87; x < 88; x += 0.00037) check(float(std::exp(x)));
  for (double x = 0.7; x < 1.6; x += 0.00001) check(float(x));
  for (int i = -100; i <= 100; ++i) check(bit_cast<float>(0x3f800000 + i));
  EXPECT_EQ(portable_ln(1), 0);
}

TEST(PortableMath, ExponentialNoise) {
  const auto check = [](uint64_t bits) {
    const double exact = -std::log1p(-(double(bits) + 0.5) / 4294967296.0);
    ASSERT_NEAR(exponential_noise(uint32_t(bits)) / exact, 1, 3e-7) << bits;
    ASSERT_GE(exponential_noise(uint32_t(bits)) * 1.000001, (double(bits) + 0.5) / 4294967296.0);
  };
  for (uint64_t bits = 0; bits < uint64_t(1) << 32; bits += 99991) check(bits);
  for (uint64_t bits = 0; bits < 1000; ++bits) check(bits), check(0xffffffff - bits), check(0x3fffffff - 500 + bits);
}

TEST(RowOrder, KeysOrderAsValues) {
  const float inf = kInfinity, values[] = {inf, 3e38f, 2, 1.0000001f, 1, 1e-30f, 1e-45f, 0, -1e-45f, -1, -3e38f, -inf};
  for (size_t i = 0; i + 1 < std::size(values); ++i) EXPECT_GT(order_key(values[i]), order_key(values[i + 1])) << values[i];
  EXPECT_EQ(order_key(0.0f), order_key(-0.0f));
  EXPECT_EQ(order_key(f16{0}), order_key(f16{0x8000}));
  EXPECT_EQ(order_key(bf16{0}), order_key(bf16{0x8000}));
  EXPECT_EQ(order_key(bit_cast<float>(0x7f800001)), 0u);
  EXPECT_EQ(order_key(bit_cast<float>(0xffc00000)), 0u);
  EXPECT_GT(order_key(-inf), 0u);
}

template <class T>
void every_16_bits() {
  for (uint32_t a = 0; a < 65536; ++a) {
    const T x{uint16_t(a)}, y{uint16_t(a * 40503u)};
    const float u = to_float(x), v = to_float(y);
    const uint32_t key = order_key(x);
    EXPECT_LT(key, 65536u);
    EXPECT_EQ(key == 0, u != u);
    const float back = to_float(value_of_order_key<T>(key));
    EXPECT_TRUE(u == u ? back == u : back != back);
    if (u == u && v == v) {
      ASSERT_EQ(key < order_key(y), u < v);
      ASSERT_EQ(key < order_key(y), order_key(u) < order_key(v));
    }
  }
}
TEST(RowOrder, Every16Bits) {
  every_16_bits<f16>();
  every_16_bits<bf16>();
}

TEST(RowOrder, FloatsComeBack) {
  for (uint64_t bits = 0; bits < uint64_t(1) << 32; bits += 65521) {
    const float x = bit_cast<float>(uint32_t(bits)), back = value_of_order_key<float>(order_key(x));
    ASSERT_TRUE(x == x ? back == x : back != back);
  }
}

TEST(RowOrder, RanksBreakTiesByLowerIndex) {
  EXPECT_GT(order_rank(5, 10), order_rank(4, 0));
  EXPECT_GT(order_rank(5, 10), order_rank(5, 11));
  EXPECT_EQ(key_of_rank(order_rank(5, 10)), 5u);
  EXPECT_EQ(index_of_rank(order_rank(5, 10)), 10u);
}

}  // namespace
}  // namespace flashinfer
