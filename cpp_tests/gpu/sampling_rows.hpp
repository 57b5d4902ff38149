// What the tests of emulated sampling kernels share: rows of every shape, and how results are compared.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <flashinfer/core/number.hpp>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer {

/// A sanitizer looks for wrong accesses, at six times the time. Which they are hardly depends on the numbers: what is tried with many seeds
/// and long rows elsewhere is tried with few there.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

inline constexpr RowValues kLogits = RowValues::logits, kProbs = RowValues::probs;

/// Rows of one kind each, so that every way through the filter is taken.
enum class Shape { normal, peaked, flat, tied, zipf, mostly_ties, masked, nan, empty };
inline constexpr Shape kShapes[] = {Shape::normal,      Shape::peaked, Shape::flat, Shape::tied, Shape::zipf,
                                    Shape::mostly_ties, Shape::masked, Shape::nan,  Shape::empty};

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
        // What a mask leaves: two thirds, or a hundred that lie together.
        if (shape == Shape::masked && (seed % 2 ? i < vocab_size / 3 || i >= vocab_size / 3 + 100 : i % 3 == 0)) v = -INFINITY;
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

/// Bit for bit, but for NaNs and the sign of zeros.
template <class T>
void expect_same(const std::vector<T>& a, const std::vector<T>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    const float x = to_float(a[i]), y = to_float(b[i]);
    ASSERT_TRUE(x == y || (x != x && y != y)) << what << ": element " << i << ": " << x << " and " << y;
  }
}

}  // namespace flashinfer
