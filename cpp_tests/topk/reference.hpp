// Rows to select from, and a selection by sorting that the library's is compared with, element by element.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include <flashinfer/topk/topk.hpp>

namespace flashinfer::topk_test {

enum class Values { normal, few, flat, masked, together, ascending, descending, special };

template <class T>
struct Rows {
  int64_t num_rows, width, stride;
  std::vector<T> data;

  Rows(int64_t num_rows, int64_t width, Values values, uint32_t seed, int64_t padding = 0)
      : num_rows(num_rows), width(width), stride(width + padding), data(size_t(num_rows * stride) + 1, from_float<T>(1e30f)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int64_t row = 0; row < num_rows; ++row)
      for (int64_t i = 0; i < width; ++i) {
        float x = normal(random);
        switch (values) {
          case Values::normal: break;
          case Values::few: x = std::round(x * 2); break;
          case Values::flat: x = 1.5f; break;
          case Values::masked: x = random() % 50 ? -INFINITY : x; break;
          case Values::together: {  // what a mask leaves
            const int64_t from = width * (2 * row + 1) / 5;
            x = i >= from && i < from + 90 ? x : row % 2 ? -100.0f : -INFINITY;
            break;
          }
          case Values::ascending: x = float(i) + row; break;
          case Values::descending: x = -float(i) - row; break;
          case Values::special: {
            const float specials[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, -NAN, 1e-40f, x};
            x = specials[random() % 8];
            break;
          }
        }
        at(row)[i] = from_float<T>(x);
      }
  }
  T* at(int64_t row) { return data.data() + row * stride; }
  TensorView view(Device device = {}) {
    TensorView v(data.data(), dtype_v<T>, {num_rows, width}, device);
    v.strides[0] = stride;
    return v;
  }
};

/// Indices of the k first of n elements: larger first, equal ones by index, NaN last; then in the order of their indices, unless sorted.
template <class T>
std::vector<int64_t> select(const T* x, int64_t n, int64_t k, bool sorted, TieBreak tie_break) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  if (tie_break == TieBreak::large) std::reverse(order.begin(), order.end());
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const double u = to_float(x[a]), v = to_float(x[b]);
    return std::isnan(v) ? !std::isnan(u) : u > v;
  });
  order.resize(size_t(std::min(n, k)));
  if (!sorted) std::sort(order.begin(), order.end());
  return order;
}

/// Same bits, or both NaN.
template <class T>
bool same(T a, T b) {
  const float u = to_float(a), v = to_float(b);
  return std::isnan(u) ? std::isnan(v) : u == v && std::signbit(u) == std::signbit(v);
}

}  // namespace flashinfer::topk_test
