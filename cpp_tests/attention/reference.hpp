// Attention from its definition, in double, one query row at a time: softmax of the logits of every key, then the values' mean.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

namespace flashinfer::reference {

inline constexpr double kHidden = -std::numeric_limits<double>::infinity();

struct Row {
  std::vector<double> out;
  double lse;  // natural logarithm of the denominator; -inf when no key is visible and there is no sink
};

/// dot(j): product of the query with key j. logit(j, dot): the logit, kHidden where masked. value(j, i): element i of value j, asked
/// for visible keys only. sink: logit of a key without a value, kHidden for none.
template <class Dot, class Logit, class Value>
Row attention_row(int kv_len, int head_dim_vo, const Dot& dot, const Logit& logit, const Value& value, double sink = kHidden) {
  std::vector<double> logits(kv_len);
  double greatest = sink;
  for (int j = 0; j < kv_len; ++j) {
    logits[j] = logit(j, [&] { return dot(j); });
    greatest = std::fmax(greatest, logits[j]);
  }
  Row row{std::vector<double>(head_dim_vo, 0.0), kHidden};
  if (greatest == kHidden) return row;
  double sum = std::exp(sink - greatest);
  for (int j = 0; j < kv_len; ++j) {
    if (logits[j] == kHidden) continue;
    const double weight = std::exp(logits[j] - greatest);
    sum += weight;
    for (int i = 0; i < head_dim_vo; ++i) row.out[i] += weight * value(j, i);
  }
  for (double& x : row.out) x /= sum;
  row.lse = greatest + std::log(sum);
  return row;
}

/// Element i of x rotated by `position`, halves layout: pairs (i, i + n/2) turn by position * scale * theta^(-2i/n).
template <class X>
double rotated(const X& x, int i, int head_dim, double position, double scale, double theta) {
  const int half = head_dim / 2, pair = i % half;
  const double angle = position * scale * std::pow(theta, -2.0 * pair / head_dim);
  return i < half ? x(pair) * std::cos(angle) - x(pair + half) * std::sin(angle)
                  : x(pair + half) * std::cos(angle) + x(pair) * std::sin(angle);
}

}  // namespace flashinfer::reference
