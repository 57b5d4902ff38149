// Host only. Some elements of a row, listed: how those that a filter keeps are told from others without sorting.
#pragma once

#include <vector>

#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/vec.hpp>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer::cpu {

/// flashinfer::mass_of in double: where there is no instruction for it, a fused multiply-add of floats is a call.
inline uint64_t mass_of(float weight) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, halves to even
  return uint64_t(bit_cast<int64_t>(double(weight) * double(kMassUnit) + kMagic) - bit_cast<int64_t>(kMagic));
}

/// Elements of a row in the order of their indices. Its functions are compiled once: kernels would inline them for every ISA, several
/// times.
struct Candidates {
  std::vector<float> x, weight;  // values as they lie in the row; f of sampling_params.hpp
  std::vector<int32_t> index;
  int64_t count = 0;

  __attribute__((noinline)) void reserve(int64_t size) {
    if (int64_t(x.size()) >= size) return;
    x.resize(size_t(size)), weight.resize(size_t(size)), index.resize(size_t(size));
  }
  __attribute__((noinline)) uint64_t mass() const {
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += cpu::mass_of(weight[size_t(i)]);
    return sum;
  }
  /// Of the last one in the order.
  __attribute__((noinline)) uint64_t least_rank() const {
    uint64_t least = ~uint64_t(0);
    for (int64_t i = 0; i < count; ++i) least = min(least, order_rank(order_key(x[size_t(i)]), uint32_t(index[size_t(i)])));
    return least;
  }
  /// Drops all but those with key above `key` and the first `ties` that have it.
  __attribute__((noinline)) void keep(uint32_t key, int64_t ties) {
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

/// Lists elements of a row while somebody goes over it, in blocks: those above a value, or the first of the order among them. Where more
/// turn out to be above than are wanted, the best so far tell a higher value.
template <class Isa>
class RowList {
 public:
  using F = typename Isa::F;
  static constexpr int kBlock = 4 * Isa::kLanes;

  /// All above a value.
  FLASHINFER_INLINE RowList(const float* x, int64_t size, float below, Candidates& c) : RowList(x, size, below, INT64_MAX, c) {}
  /// The first `wanted` above `nothing`: above a value that a sample of the row tells.
  static FLASHINFER_INLINE RowList of_first(const float* x, int64_t size, float nothing, int64_t wanted, Candidates& c) {
    RowList list(x, size, nothing, wanted, c);
    if (wanted > 0 && size >= 4 * kSamples)
      list.bar_ = outlined<Isa>([&]() FLASHINFER_INLINE { return max(nothing, likely_bar(x, size, wanted)); });
    return list;
  }

  /// Elements from i on, of a block or what is left of the row. Blocks come in their order.
  FLASHINFER_INLINE void see_block(int64_t i) {
    if (wanted_ == 0) return;
    if (size_ - i >= kBlock) {
      F most = Isa::set(-kInfinity);  // passes over NaN
      for (int v = 0; v < kBlock; v += Isa::kLanes) most = Isa::max(Isa::load(x_ + i + v), most);
      if (Isa::bits(Isa::less(Isa::set(bar_), most)) == 0) return;  // of most blocks
    }
    list(i, min(size_ - i, int64_t(kBlock)));
  }
  FLASHINFER_INLINE void see_all() {
    c_.count = 0;
    outlined<Isa>([&]() FLASHINFER_INLINE {
      for (int64_t i = 0; i < size_; i += kBlock) see_block(i);
    });
  }
  /// After the whole row: lists no more than are wanted, and looks again if fewer are above the value.
  FLASHINFER_INLINE void end() {
    if (c_.count < min(wanted_, size_) && bar_ > nothing_) bar_ = nothing_, see_all();
    if (c_.count > wanted_) keep_prefix(c_, false, uint64_t(wanted_));
  }

 private:
  static constexpr int64_t kSamples = 2048;

  const float* x_;
  int64_t size_, wanted_, room_;
  float nothing_, bar_;
  Candidates& c_;

  FLASHINFER_INLINE RowList(const float* x, int64_t size, float nothing, int64_t wanted, Candidates& c)
      : x_(x), size_(size), wanted_(wanted), room_(wanted < size ? 2 * wanted + 1024 : INT64_MAX), nothing_(nothing), bar_(nothing), c_(c) {
    c.reserve(min(size, room_) + kBlock);
    c.count = 0;
  }
  FLASHINFER_INLINE void list(int64_t first, int64_t size) {
    const F bar = Isa::set(bar_);
    for_each_vec<Isa>(size, [&](int64_t i, auto... count) FLASHINFER_INLINE {
      const F x = Isa::load(x_ + first + i, count...);
      uint32_t above = Isa::bits(Isa::less(bar, x));
      if constexpr (sizeof...(count) > 0) above &= Isa::bits(Isa::first(count...));
      float values[Isa::kLanes];
      if (above) Isa::store(values, x);
      for (; above; above &= above - 1) {
        const int lane = __builtin_ctz(above);
        c_.x[size_t(c_.count)] = values[lane], c_.index[size_t(c_.count)] = int32_t(first + i + lane);
        ++c_.count;
      }
    });
    if (c_.count >= room_) bar_ = value_of_order_key<float>(keep_prefix(c_, false, uint64_t(wanted_)));  // of equal ones the first are kept
  }
  /// A value that as many elements are likely to lie above, found by halving.
  static FLASHINFER_INLINE float likely_bar(const float* x, int64_t size, int64_t wanted) {
    const int64_t step = size / kSamples;
    const float expected = float(wanted) / float(step), enough = expected + 3 * __builtin_sqrtf(expected) + 4;
    float samples[kSamples];
    for (int64_t i = 0; i < kSamples; ++i) samples[i] = x[i * step];
    uint32_t low = order_key(-kInfinity), high = order_key(kInfinity);  // enough are above, too few
    while (low + 1 < high) {
      const uint32_t middle = low + (high - low) / 2;
      const F value = Isa::set(value_of_order_key<float>(middle));
      int above = 0;
      for (int64_t i = 0; i < kSamples; i += Isa::kLanes) above += __builtin_popcount(Isa::bits(Isa::less(value, Isa::load(samples + i))));
      (float(above) >= enough ? low : high) = middle;
    }
    return value_of_order_key<float>(low);
  }
};

}  // namespace flashinfer::cpu
