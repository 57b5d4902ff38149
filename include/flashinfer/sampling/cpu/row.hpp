// Host only. A row of logits or probabilities on the CPU: its maximum, its mass, and the prefix of its order that filters keep.
//
// Nothing is sorted. A strided sample of the row tells a value above which the prefix ends; one vector pass gathers the elements from
// that value up, some hundreds of a vocabulary; radix selection by counts and masses ends the prefix exactly. Where the guess was too
// high, which the gathered elements themselves tell, the whole row is gathered.
#pragma once

#include <vector>

#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/cpu/portable_vec.hpp>
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

/// Keeps the shortest prefix of the order that has `needed` elements, or the mass `needed` if `by_mass`. There must be that much.
__attribute__((noinline)) inline void keep_prefix(Candidates& c, bool by_mass, uint64_t needed) {
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
}

/// What a thread keeps between rows.
struct RowScratch {
  std::vector<float> values, weights;
  Candidates kept, top;

  static RowScratch& of_thread() {
    static thread_local RowScratch scratch;
    return scratch;
  }
};

/// A row as floats: where it lies, or converted into the scratch.
template <class Isa>
FLASHINFER_INLINE inline const float* floats_of(const void* rows, DType dtype, int64_t offset, int64_t size, RowScratch& scratch) {
  if (dtype == DType::f32) return static_cast<const float*>(rows) + offset;
  if (int64_t(scratch.values.size()) < size) scratch.values.resize(size_t(size));
  float* values = scratch.values.data();
  for_each_vec<Isa>(size, [&](int64_t i, auto... count) FLASHINFER_INLINE {
    if (dtype == DType::f16)
      Isa::store(values + i, Isa::load(static_cast<const f16*>(rows) + offset + i, count...), count...);
    else
      Isa::store(values + i, Isa::load(static_cast<const bf16*>(rows) + offset + i, count...), count...);
  });
  return values;
}

/// Filters of one row, as sampling_params.hpp defines them; `vocab_size` and above for top_k, 1 for top_p and 0 for min_p are none.
struct RowFilter {
  int64_t top_k = INT64_MAX;
  float top_p = 1, min_p = 0;
  bool joint = false;
};

template <class Isa, RowValues kValues>
class Row {
 public:
  using F = typename Isa::F;
  static constexpr bool kLogits = kValues == RowValues::logits;

  FLASHINFER_INLINE Row(const float* x, int64_t vocab_size, float temperature) : x_(x), size_(vocab_size) {
    F largest = Isa::set(-kInfinity), zero = Isa::set(0);  // zero becomes NaN with the first NaN
    for_each_vec<Isa>(size_, [&](int64_t i, auto... count) FLASHINFER_INLINE {
      F x = Isa::load(x_ + i, count...);
      if constexpr (sizeof...(count) > 0) x = Isa::select(Isa::first(count...), x, Isa::set(-kInfinity));
      largest = Isa::max(x, largest);  // the second where one is NaN
      zero = Isa::fma(Isa::min(Isa::set(kLargestFloat), Isa::max(Isa::set(-kLargestFloat), x)), Isa::set(0), zero);
    });
    const float sum = Isa::sum(zero), max = Isa::max_of(largest);
    has_nan_ = sum != sum;
    if constexpr (kLogits) {
      empty_ = max == -kInfinity;
      max_ = finite_logit(max);
      scale_ = logit_scale(temperature);
    } else {
      max_ = finite_prob(max);
      empty_ = max_ < kLeastProb;
      scale_ = empty_ ? 0 : prob_scale(max_);
    }
  }

  bool has_nan() const { return has_nan_; }
  /// Nothing to weigh.
  bool empty() const { return empty_; }
  float value(int64_t i) const { return x_[i]; }

  float weight(float x) const {
    if constexpr (kLogits) {
      return flashinfer::portable_exp2(logit_exponent(x, max_, scale_));
    } else {
      return prob_weight(x, scale_);
    }
  }
  FLASHINFER_INLINE F weight(const F& x) const {
    if constexpr (kLogits) {
      return portable_exp2<Isa>((Isa::min(Isa::set(kLargestFloat), x) - Isa::set(max_)) * Isa::set(scale_));
    } else {
      const F f = x * Isa::set(scale_);  // prob_weight
      return Isa::select(Isa::less(Isa::set(0), f), Isa::min(Isa::set(1), f), Isa::set(0));
    }
  }
  /// What elements run their race with.
  FLASHINFER_INLINE F race_weight(const F& x) const {
    if constexpr (kLogits) return weight(x);
    return Isa::select(Isa::less(Isa::set(0), x), Isa::min(Isa::set(kLargestFloat), x), Isa::set(0));
  }

  /// f(i, weights, count) for runs of kRun elements, the last one shorter: what the compiler vectorises by itself reads them from a
  /// small array.
  static constexpr int kRun = 256;
  template <bool kRace = false, class Function>
  FLASHINFER_INLINE void for_each_run(const Function& f) const {
    float weights[kRun];
    for (int64_t i = 0; i < size_; i += kRun) {
      const int64_t count = min(size_ - i, int64_t(kRun));
      for_each_vec<Isa>(count, [&](int64_t j, auto... rest) FLASHINFER_INLINE {
        const F x = Isa::load(x_ + i + j, rest...);
        Isa::store(weights + j, kRace ? race_weight(x) : weight(x), rest...);
      });
      f(i, weights, count);
    }
  }

  /// Of the whole row.
  FLASHINFER_INLINE uint64_t mass() const {
    uint64_t sum = 0;
    for_each_run([&](int64_t, const float* weights, int64_t count) FLASHINFER_INLINE {
      uint64_t part = 0;
      for (int64_t j = 0; j < count; ++j) part += cpu::mass_of(weights[j]);
      sum += part;
    });
    return sum;
  }

  /// The kept elements of a row that is not empty; false: no filter is on, and nothing was gathered. `first` more of the order are
  /// gathered and left in `top`, if given, before filters. `total` is the mass of the row, computed where it is 0 and needed.
  FLASHINFER_INLINE bool keep(const RowFilter& filter, Candidates& c, uint64_t& total, int64_t first = 0, Candidates* top = nullptr) const {
    const bool by_count = filter.top_k < size_, by_value = filter.min_p > 0, by_mass = !(filter.top_p >= 1);
    const bool filtered = by_count || by_value || by_mass;
    if (!filtered && first == 0) return false;
    const bool whole = by_mass && (filter.joint || (!by_count && !by_value));  // top_p is of the row's mass
    if (whole && total == 0) total = mass();
    const uint64_t needed = whole ? needed_mass(filter.top_p, total) : 0;

    // Any one complete filter bounds the prefix, but top_p of what others keep, which needs one of those.
    const float least = least_kept(filter.min_p);
    const auto complete = [&](float cut) {
      if (c.count < first) return false;
      if (!filtered || (by_count && c.count >= filter.top_k) || (by_value && cut <= least)) return true;
      return whole && c.mass() >= needed;
    };
    const int64_t wanted = max(first, by_count ? filter.top_k : 0);
    float cut = guess_cut(wanted, whole ? filter.top_p : 1.0f, total);
    if (by_value && first == 0) cut = max(cut, least);  // without a guess: -inf
    // What weighs nothing matters to those who ask for the first of the order alone. Most of a filtered row are zeros.
    const float nothing = kLogits || first > 0 ? -kInfinity : 0.0f;
    gather(cut, nothing, c);
    if (!complete(cut)) gather(-kInfinity, nothing, c);

    if (top) {
      *top = c;
      if (first < top->count) keep_prefix(*top, false, uint64_t(first));
    }
    if (by_count && c.count > filter.top_k) keep_prefix(c, false, uint64_t(filter.top_k));
    if (by_value) c.keep(order_key(least), INT64_MAX);
    if (by_mass) {
      const uint64_t kept = c.mass(), goal = whole ? needed : needed_mass(filter.top_p, kept);
      if (goal <= kept) keep_prefix(c, true, goal);
    }
    return filtered;
  }

  /// `top` gathered by keep() may lack elements that weigh nothing: those of -inf, which come last, are added by lowest index.
  void complete_top(Candidates& top, int64_t count) const {
    top.reserve(count);
    for (int64_t i = 0; i < size_ && top.count < count; ++i)
      if (value(i) == -kInfinity) top.index[size_t(top.count++)] = int32_t(i);
  }

 private:
  /// The least value that min_p keeps: its t or p has the limit that sampling_params.hpp gives.
  float least_kept(float min_p) const {
    if (!(min_p > 0)) return -kInfinity;
    if constexpr (!kLogits) return least_prob(min_p, max_);
    const float limit = least_exponent(min_p);
    // logit_exponent is monotone: the least x that passes is found by halving the keys between a value that fails and the maximum.
    uint32_t low = order_key(-kInfinity), high = order_key(max_);
    while (low + 1 < high) {
      const uint32_t middle = low + (high - low) / 2;
      (logit_exponent(value_of_order_key<float>(middle), max_, scale_) >= limit ? high : low) = middle;
    }
    return value_of_order_key<float>(high);
  }

  /// A value that the first `wanted` elements, and a share top_p of the mass, are likely to lie above. -inf: no guess.
  float guess_cut(int64_t wanted, float top_p, uint64_t total) const {
    constexpr int64_t kSamples = 2048;
    constexpr int kBuckets = 1024, kPerOctave = 16;  // of the weight, from the maximum down
    if (size_ < 4 * kSamples || (wanted <= 0 && top_p >= 1)) return -kInfinity;
    const int64_t step = size_ / kSamples;
    uint16_t count[kBuckets] = {};
    for (int64_t i = 0; i < kSamples; ++i) {
      const float depth = -exponent(value(i * step)) * kPerOctave;
      ++count[depth >= 0 && depth < kBuckets - 1 ? int(depth) : kBuckets - 1];  // NaN and -inf: the last
    }
    int bucket = -1;  // the last one above the cut
    if (wanted > 0) {
      const float expected = float(wanted) / float(step), enough = expected + 3 * __builtin_sqrtf(expected) + 4;
      int64_t above = 0;
      while (bucket < kBuckets - 1 && float(above) < enough) above += count[++bucket];
    }
    if (top_p < 1) {
      const float spare = 0.7f * (1 - top_p) * weight_of_mass(total);
      float below = 0;
      int last = kBuckets - 1;
      for (; last >= 0; --last) {
        below += float(count[last] * step) * flashinfer::portable_exp2(float(-last) / kPerOctave);
        if (below > spare) break;
      }
      bucket = wanted > 0 ? min(bucket, last) : last;
    }
    return bucket < kBuckets - 1 ? value_at(float(-1 - bucket) / kPerOctave) : -kInfinity;
  }
  /// About log2 of the weight, for guesses, and back. Probabilities: their bits, whose exponent is the integer part.
  float exponent(float x) const {
    if constexpr (kLogits) return logit_exponent(x, max_, scale_);
    return float(int32_t(bit_cast<uint32_t>(weight(x)) - 0x3f800000u)) * 1.1920929e-7f;
  }
  float value_at(float exponent) const {
    if constexpr (kLogits) return max_ + exponent / scale_;
    return bit_cast<float>(uint32_t(0x3f800000 + int32_t(max(exponent, -126.0f) * 8388608.0f))) * max_;
  }

  /// All elements from `cut` up but NaN and what is not above `nothing`.
  FLASHINFER_INLINE void gather(float cut, float nothing, Candidates& c) const {
    c.reserve(size_);
    int64_t n = 0;
    const F below = Isa::set(cut == -kInfinity ? nothing : value_of_order_key<float>(order_key(cut) - 1));
    for_each_vec<Isa>(size_, [&](int64_t i, auto... count) FLASHINFER_INLINE {
      const F x = Isa::load(x_ + i, count...);
      uint32_t kept = Isa::bits(Isa::less(below, x));
      if constexpr (sizeof...(count) > 0) kept &= (1u << (size_ - i)) - 1;
      if (kept == 0) return;
      float values[Isa::kLanes];
      Isa::store(values, x);
      for (; kept; kept &= kept - 1) {
        const int lane = __builtin_ctz(kept);
        c.x[size_t(n)] = values[lane];
        c.index[size_t(n)] = int32_t(i + lane);
        ++n;
      }
    });
    c.count = n;
    for_each_vec<Isa>(n, [&](int64_t i, auto... count)
                             FLASHINFER_INLINE { Isa::store(c.weight.data() + i, weight(Isa::load(c.x.data() + i, count...)), count...); });
  }

  const float* x_;
  int64_t size_;
  float max_, scale_;
  bool has_nan_, empty_;
};

/// f(isa, begin, end) for chunks of rows, in parallel.
template <class F>
void parallel_rows(int64_t num_rows, int64_t vocab_size, const F& f) {
  parallel_for(num_rows, 16384 / vocab_size + 1,
               [&](int64_t begin, int64_t end) { dispatch_isa([&](auto isa) FLASHINFER_INLINE { f(isa, begin, end); }); });
}

}  // namespace flashinfer::cpu
