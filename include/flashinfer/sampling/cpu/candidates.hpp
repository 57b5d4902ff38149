// Host only. Some elements of a row, listed: how those that a filter keeps are told from others without sorting.
#pragma once

#include <vector>

#include <flashinfer/core/number.hpp>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer::cpu {

/// flashinfer::mass_of in double: where there is no instruction for it, a fused multiply-add of floats is a call.
inline uint64_t mass_of(float weight) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, halves to even
  return uint64_t(bit_cast<int64_t>(double(weight) * double(kMassUnit) + kMagic) - bit_cast<int64_t>(kMagic));
}

/// Elements of a row in the order of their indices.
struct Candidates {
  std::vector<float> x, weight;  // values as they lie in the row; f of sampling_params.hpp
  std::vector<int32_t> index;
  int64_t count = 0;

  void reserve(int64_t size) {
    if (int64_t(x.size()) >= size) return;
    x.resize(size_t(size)), weight.resize(size_t(size)), index.resize(size_t(size));
  }
  uint64_t mass() const {
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += cpu::mass_of(weight[size_t(i)]);
    return sum;
  }
  /// Of the last one in the order.
  uint64_t least_rank() const {
    uint64_t least = ~uint64_t(0);
    for (int64_t i = 0; i < count; ++i) least = min(least, order_rank(order_key(x[size_t(i)]), uint32_t(index[size_t(i)])));
    return least;
  }
  /// Drops all but those with key above `key` and the first `ties` that have it.
  void keep(uint32_t key, int64_t ties) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t k = order_key(x[size_t(i)]);
      if (k < key || (k == key && --ties < 0)) continue;
      x[size_t(kept)] = x[size_t(i)], weight[size_t(kept)] = weight[size_t(i)], index[size_t(kept)] = index[size_t(i)];
      ++kept;
    }
    count = kept;
  }
};

/// Keeps the shortest prefix of the order that has `needed` elements, or the mass `needed` if `by_mass`. There must be that much. Returns
/// the key of its last element.
__attribute__((noinline)) inline uint32_t keep_prefix(Candidates& c, bool by_mass, uint64_t needed) {
  struct Element {
    uint32_t key;
    int32_t at;
  };
  constexpr int kBucketBits = 9;
  static thread_local std::vector<Element> left;  // those whose bucket the prefix ends in
  left.resize(size_t(c.count));
  uint32_t low = ~0u, high = 0;
  for (int64_t i = 0; i < c.count; ++i) {
    const uint32_t key = order_key(c.x[size_t(i)]);
    left[size_t(i)] = {key, int32_t(i)};
    low = min(low, key), high = max(high, key);
  }
  while (low < high) {
    const int shift = max(32 - __builtin_clz(high - low) - kBucketBits, 0);
    uint64_t amount[1 << kBucketBits] = {};
    for (const Element& e : left) amount[(e.key - low) >> shift] += by_mass ? cpu::mass_of(c.weight[size_t(e.at)]) : 1;
    uint32_t bucket = (high - low) >> shift;
    for (; amount[bucket] < needed; --bucket) needed -= amount[bucket];
    low += bucket << shift;
    high = min(high, low + ((1u << shift) - 1));
    size_t count = 0;
    for (const Element& e : left)
      if (e.key >= low && e.key <= high) left[count++] = e;
    left.resize(count);
  }
  // What is left are equal values: equal masses.
  const uint64_t each = by_mass ? cpu::mass_of(c.weight[size_t(left[0].at)]) : 1;
  c.keep(low, int64_t(ceil_div(needed, max(each, uint64_t(1)))));
  return low;
}

}  // namespace flashinfer::cpu
