// Host only. What filters keep of a row on the CPU: a prefix of its order, whose end is found without sorting.
//
// The first k are listed in the pass that finds the row's maximum: a strided sample tells a value that they are likely to lie above, and
// where more turn out to, the best of those so far tell a higher one. What min_p and top_p keep is listed if a sample tells that it is
// little. Else it stays where it is, as all that has a rank or a higher one: min_p gives that rank, top_p a mass, and the rank at which a
// mass ends is found in bins of neighbouring values, narrower ones in each look at the row.
#pragma once

#include <flashinfer/sampling/cpu/row.hpp>

namespace flashinfer::cpu {

/// Filters of one row, as sampling_params.hpp defines them; `vocab_size` and above for top_k, 1 for top_p and 0 for min_p are none.
struct RowFilter {
  int64_t top_k = INT64_MAX;
  float top_p = 1, min_p = 0;
  bool joint = false;
};

/// Two values.
struct Cuts {
  float low = -kInfinity, high = kInfinity;
};

/// What filters keep of a row.
struct KeptElements {
  bool listed = false;        // in the candidates; if not, it is
  uint64_t rank = kWholeRow;  // all elements of this rank and above,
  uint64_t mass = 0;          // or where this is not 0, of them the shortest prefix that has this mass, or all if they have less,
  Cuts cuts;                  // which is likely to end between these values
};

/// Some elements of a row, counted by about what they weigh.
template <class Isa, RowValues kValues>
class RowSample {
 public:
  FLASHINFER_INLINE explicit RowSample(const Row<Isa, kValues>& row) : row_(row), step_(row.size() / kSamples) {
    outlined<Isa>([&]() FLASHINFER_INLINE {
      float depth[kSamples], deepest = 1e-4f;
      for (int64_t i = 0; i < kSamples; ++i) {
        depth[i] = -row.exponent(row.value(i * step_));
        if (depth[i] < kDeepest) deepest = max(deepest, depth[i]);
      }
      bins_an_octave_ = float(kBins - 2) / deepest;
      for (const float d : depth) ++count_[bin_of_depth(d)];
    });
  }
  /// Too small to sample.
  static bool is_small(int64_t size) { return size < 4 * kSamples; }
  /// What lies below has no mass.
  float least() const { return row_.value_at(-kDeepest); }

  /// Two values between which a prefix with as much weight of a total is likely to end: by what lies above, which tells more where that is
  /// little, and by what lies below, which tells more where a few elements are most of the row.
  FLASHINFER_INLINE Cuts cuts_of_weight(float needed, float total) const {
    return outlined<Isa>([&]() FLASHINFER_INLINE {
      struct Sum {
        float weight = 0, variance = 0;
        bool is_less(float other) const { return weight + 4 * __builtin_sqrtf(variance) < other; }
        bool may_be_less(float other) const { return weight - 4 * __builtin_sqrtf(variance) < other; }
      } above, below;
      const auto add = [&](Sum& sum, int bin) {
        const float weight = float(step_) * weight_above(bin);
        sum.weight += float(count_[bin]) * weight, sum.variance += float(count_[bin]) * weight * weight;
      };
      int first = 0, last = kBins - 2;  // bins it ends in
      for (add(above, first); above.is_less(needed) && first < last;) add(above, ++first);
      int bin = first;
      while (above.may_be_less(needed) && bin < last) add(above, ++bin);
      last = bin;
      bin = kBins - 2;
      for (add(below, bin); below.is_less(total - needed) && bin > 0;) add(below, --bin);
      last = min(last, bin);
      while (below.may_be_less(total - needed) && bin > 0) add(below, --bin);
      first = max(first, bin);
      return Cuts{cut_below(last), first > 0 ? cut_below(first - 1) : kInfinity};
    });
  }
  /// How many elements that have a mass are likely to lie above a value.
  int64_t count_above(float value) const {
    int64_t above = 0;
    for (int bin = 0, last = min(bin_of_depth(-row_.exponent(value)), kBins - 2); bin <= last; ++bin) above += count_[bin];
    return above * step_;
  }

 private:
  static constexpr int64_t kSamples = 2048;
  static constexpr int kBins = 1024;        // from the maximum down to the least that has been sampled; the last is for what has no mass
  static constexpr float kDeepest = 64.0f;  // log2

  const Row<Isa, kValues>& row_;
  int64_t step_;
  float bins_an_octave_;
  uint16_t count_[kBins] = {};

  int bin_of_depth(float depth) const {
    const float bin = depth * bins_an_octave_;
    return bin >= 0 && bin < kBins - 1 ? int(bin) : kBins - 1;  // NaN and -inf: the last
  }
  float weight_above(int bin) const { return flashinfer::portable_exp2(float(-bin) / bins_an_octave_); }
  float cut_below(int bin) const { return bin < kBins - 1 ? row_.value_at(float(-1 - bin) / bins_an_octave_) : -kInfinity; }
};

/// A row that is not empty, and its filters.
template <class Isa, RowValues kValues>
class RowFilters {
 public:
  using F = typename Isa::F;
  static constexpr bool kLogits = kValues == RowValues::logits;

  FLASHINFER_INLINE explicit RowFilters(const Row<Isa, kValues>& row) : row_(row), size_(row.size()) {}

  /// How many of the order's first, of those above kNothing, are to be listed in `c` when keep() is called.
  static int64_t first_of(const RowFilter& filter, int64_t vocab_size) { return filter.top_k < vocab_size ? filter.top_k : 0; }
  static constexpr float kNothing = kLogits ? -kInfinity : 0.0f;  // what has probability 0 weighs nothing

  /// What filters keep, listed in `c` if it is little.
  FLASHINFER_INLINE KeptElements keep(const RowFilter& filter, Candidates& c) const {
    const bool by_mass = !(filter.top_p >= 1);
    const uint32_t least = filter.min_p > 0 ? order_key(row_.least_kept(filter.min_p)) : 0;
    KeptElements kept;
    if (filter.top_k < size_) {
      weigh(c);
      if (least) c.keep(least, INT64_MAX);
      if (by_mass) {
        const uint64_t mass = c.mass(), needed = needed_mass(filter.top_p, filter.joint ? row_.mass() : mass);
        if (needed <= mass) keep_prefix(c, true, needed);
      }
      kept.listed = c.count <= most_listed();
      if (!kept.listed) kept.rank = c.least_rank();
    } else if (least || by_mass) {
      kept.rank = max(kWholeRow, uint64_t(least) << 32);
      const uint64_t total = by_mass ? row_.mass(filter.joint ? kWholeRow : kept.rank) : 0;
      if (by_mass) kept.mass = needed_mass(filter.top_p, total);
      if (!RowSample<Isa, kValues>::is_small(size_)) list(kept, total, c);
    }
    return kept;
  }

  /// Finds where it ends, if that is not known. Returns its mass.
  FLASHINFER_INLINE uint64_t end(KeptElements& kept, const Candidates& c) const {
    if (kept.listed) return c.mass();
    if (kept.mass == 0) return row_.mass(kept.rank);
    const uint32_t least = key_of_rank(kept.rank), most = order_key(kInfinity);
    uint32_t low = max(least, order_key(kept.cuts.low)), high = max(low, order_key(kept.cuts.high));
    uint64_t missing = kept.mass;
    const uint64_t above = high < most ? row_.mass(uint64_t(high + 1) << 32) : 0;
    if (above >= missing)
      low = high + 1, high = most;
    else
      missing -= above;
    if (!end_between(low, high, missing, kept.rank) && low > least) end_between(least, low - 1, missing, kept.rank);
    const uint64_t mass = kept.mass - missing;
    kept.mass = 0;
    return mass;
  }

  /// The first `count` of the order.
  FLASHINFER_INLINE void list_first(int64_t count, Candidates& c) const {
    auto list = RowList<Isa>::of_first(row_.values(), size_, -kInfinity, count, c);
    list.see_all();
    list.end();
    for (int64_t i = 0; i < size_ && c.count < count; ++i)  // those of -inf come last
      if (row_.value(i) == -kInfinity) c.index[size_t(c.count++)] = int32_t(i);
  }

 private:
  const Row<Isa, kValues>& row_;
  int64_t size_;

  /// Of more elements a pass over all is faster than Philox for each of them.
  int64_t most_listed() const { return size_ / 32; }

  /// Lists what is kept of a row of this mass if a sample tells that it is little.
  FLASHINFER_INLINE void list(KeptElements& kept, uint64_t total, Candidates& c) const {
    const RowSample<Isa, kValues> sample(row_);
    const float least = value_of_order_key<float>(key_of_rank(kept.rank));
    if (kept.mass) kept.cuts = sample.cuts_of_weight(weight_of_mass(kept.mass), weight_of_mass(total));
    for (const float guess : {kept.cuts.low, sample.least()}) {
      const float cut = kept.mass ? max(guess, least) : least;
      if (sample.count_above(cut) > most_listed()) return;
      RowList<Isa>(row_.values(), size_, below(cut), c).see_all();
      weigh(c);
      const bool enough = kept.mass && c.mass() >= kept.mass;
      if (enough) keep_prefix(c, true, kept.mass);
      kept.listed = enough || cut == least;
      if (kept.listed) return;
    }
  }

  /// Whether it ends at a key from low to high, and where. Takes the mass that these elements have of it off what is missing, which is
  /// below 0 then, for equal ones have equal masses.
  FLASHINFER_INLINE bool end_between(uint32_t low, uint32_t high, uint64_t& missing, uint64_t& rank) const {
    return outlined<Isa>([&]() FLASHINFER_INLINE {
      constexpr int kBinBits = 10, kBins = 1 << kBinBits;
      while (narrow(low, high)) {
        if (low == high) {
          const uint64_t each = cpu::mass_of(row_.weight(value_of_order_key<float>(low)));
          const int64_t wanted = each ? int64_t(ceil_div(missing, each)) : INT64_MAX;
          int64_t left = wanted;
          const int64_t last = find_equal(low, left);
          missing -= uint64_t(wanted - left) * each;
          if (left == 0) rank = order_rank(low, uint32_t(last));
          return left == 0;
        }
        const int shift = max(32 - __builtin_clz(high - low) - kBinBits, 0);
        uint64_t bins[kBins] = {};
        add_masses(low, high, shift, bins);
        int bin = int((high - low) >> shift);
        for (; bin >= 0 && bins[bin] < missing; --bin) missing -= bins[bin];
        if (bin < 0) return false;
        low += uint32_t(bin) << shift, high = min(high, low + ((1u << shift) - 1));
      }
      return false;
    });
  }

  /// The next smaller value; of -inf itself.
  static float below(float value) { return value == -kInfinity ? value : value_of_order_key<float>(order_key(value) - 1); }
  FLASHINFER_INLINE void weigh(Candidates& c) const {
    for_each_vec<Isa>(c.count, [&](int64_t i, auto... count) FLASHINFER_INLINE {
      Isa::store(c.weight.data() + i, row_.weight(Isa::load(c.x.data() + i, count...)), count...);
    });
  }

  // Elements with keys from `low`, which is above that of -inf, to `high`.

  /// f(chain, vector, first index): others are -inf.
  template <int kChains = 1, class Function>
  FLASHINFER_INLINE void for_each_between(uint32_t low, uint32_t high, const Function& f) const {
    const F below = Isa::set(value_of_order_key<float>(low - 1)), most = Isa::set(value_of_order_key<float>(high)),
            none = Isa::set(-kInfinity);
    for_each_vec_in_chains<Isa, kChains>(size_, [&](int chain, int64_t i, auto... count) FLASHINFER_INLINE {
      F x = Isa::load(row_.values() + i, count...);
      if constexpr (sizeof...(count) > 0) x = Isa::select(Isa::first(count...), x, none);
      x = Isa::select(Isa::less(most, x), none, x);
      f(chain, Isa::select(Isa::less(below, x), x, none), i);
    });
  }
  /// Which of them are not.
  static FLASHINFER_INLINE uint32_t bits_between(const F& x) { return Isa::bits(Isa::less(Isa::set(-kInfinity), x)); }
  /// The least and the largest key that elements have; false: there are none.
  FLASHINFER_INLINE bool narrow(uint32_t& low, uint32_t& high) const {
    constexpr int kChains = 4;
    const F none = Isa::set(-kInfinity), zero = Isa::set(0);
    F most[kChains] = {none, none, none, none}, most_of_negated[kChains] = {none, none, none, none};
    for_each_between<kChains>(low, high, [&](int chain, const F& x, int64_t) FLASHINFER_INLINE {
      most[chain] = Isa::max(most[chain], x);
      most_of_negated[chain] = Isa::max(most_of_negated[chain], Isa::select(Isa::less(none, x), zero - x, none));
    });
    for (int chain = 1; chain < kChains; ++chain)
      most[0] = Isa::max(most[0], most[chain]), most_of_negated[0] = Isa::max(most_of_negated[0], most_of_negated[chain]);
    const float largest = Isa::max_of(most[0]);
    if (largest == -kInfinity) return false;
    low = order_key(-Isa::max_of(most_of_negated[0])), high = order_key(largest);
    return true;
  }
  /// Adds the mass of each to the bin that its key lies in.
  template <int kCount>
  FLASHINFER_INLINE void add_masses(uint32_t low, uint32_t high, int shift, uint64_t (&bins)[kCount]) const {
    constexpr int kRun = 256;
    float values[kRun + Isa::kLanes], weights[kRun + Isa::kLanes];
    int n = 0;
    const auto add_run = [&]() FLASHINFER_INLINE {
      outlined<Isa>([&]() FLASHINFER_INLINE {
        uint32_t bin[kRun + Isa::kLanes];
        uint64_t mass[kRun + Isa::kLanes];
        for_each_vec<Isa>(n, [&](int64_t i, auto... count)
                                 FLASHINFER_INLINE { Isa::store(weights + i, row_.weight(Isa::load(values + i, count...)), count...); });
        for (int i = 0; i < n; ++i) bin[i] = (order_key(values[i]) - low) >> shift, mass[i] = cpu::mass_of(weights[i]);
        for (int i = 0; i < n; ++i) bins[bin[i]] += mass[i];
        n = 0;
      });
    };
    for_each_between(low, high, [&](int, const F& x, int64_t) FLASHINFER_INLINE {
      uint32_t some = bits_between(x);
      if (some == 0) return;
      float own[Isa::kLanes];
      Isa::store(own, x);
      for (; some; some &= some - 1) values[n++] = own[__builtin_ctz(some)];
      if (n >= kRun) add_run();
    });
    add_run();
  }
  /// The index of the one after which none is left of as many elements with this key. Else some are left.
  FLASHINFER_INLINE int64_t find_equal(uint32_t key, int64_t& left) const {
    int64_t last = -1;
    for_each_between(key, key, [&](int, const F& x, int64_t i) FLASHINFER_INLINE {
      if (left == 0) return;
      uint32_t equal = bits_between(x);
      const int count = __builtin_popcount(equal);
      if (left > count) return void(left -= count);
      for (; left > 1; --left) equal &= equal - 1;
      last = i + __builtin_ctz(equal), left = 0;
    });
    return last;
  }
};

}  // namespace flashinfer::cpu
