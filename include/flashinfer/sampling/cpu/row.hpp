// Host only. A row of logits or probabilities on the CPU: its maximum, what its elements weigh, and passes over those of a prefix.
#pragma once

#include <vector>

#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/cpu/portable_vec.hpp>
#include <flashinfer/sampling/cpu/candidates.hpp>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer::cpu {

/// What a thread keeps between rows.
struct RowScratch {
  std::vector<float> values;
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

/// All elements of a row but NaN and -inf, which weigh nothing.
inline constexpr uint64_t kWholeRow = uint64_t(order_key(-kInfinity) + 1) << 32;

/// Which elements have this rank or a higher one, kWholeRow or above: those above a value up to the index of the rank, those above the next
/// larger value after it.
template <class Isa>
class IsInPrefix {
 public:
  FLASHINFER_INLINE explicit IsInPrefix(uint64_t rank)
      : least_(Isa::set(value_of_order_key<float>(key_of_rank(rank) - 1))),
        next_(Isa::set(value_of_order_key<float>(key_of_rank(rank)))),
        count_(int64_t(index_of_rank(rank)) + 1) {}
  /// Of a vector that begins at index i.
  FLASHINFER_INLINE typename Isa::M operator()(const typename Isa::F& x, int64_t i) const {
    const int at_least = int(min(max(count_ - i, int64_t(0)), int64_t(Isa::kLanes)));
    return Isa::less(Isa::select(Isa::first(at_least), least_, next_), x);
  }

 private:
  typename Isa::F least_, next_;
  int64_t count_;
};

template <class Isa, RowValues kValues>
class Row {
 public:
  using F = typename Isa::F;
  static constexpr bool kLogits = kValues == RowValues::logits;

  /// Goes over the row, and shows each block to `list` as well.
  FLASHINFER_INLINE Row(const float* x, int64_t vocab_size, float temperature, RowList<Isa>* list = nullptr) : x_(x), size_(vocab_size) {
    constexpr int kChains = 4;  // a maximum waits for the one before
    static_assert(RowList<Isa>::kBlock == kChains * Isa::kLanes);
    F largest[kChains], zero[kChains];  // zero becomes NaN with the first NaN
    for (int chain = 0; chain < kChains; ++chain) largest[chain] = Isa::set(-kInfinity), zero[chain] = Isa::set(0);
    const auto add = [&](int chain, const F& x) FLASHINFER_INLINE {
      largest[chain] = Isa::max(x, largest[chain]);  // the second where one is NaN
      const F finite = Isa::min(Isa::set(kLargestFloat), Isa::max(Isa::set(-kLargestFloat), x));
      zero[chain] = Isa::fma(finite, Isa::set(0), zero[chain]);
    };
    int64_t i = 0;
    for (; i + RowList<Isa>::kBlock <= size_; i += RowList<Isa>::kBlock) {
      for (int chain = 0; chain < kChains; ++chain) add(chain, Isa::load(x + i + chain * Isa::kLanes));
      if (list) list->see_block(i);
    }
    for_each_vec<Isa>(size_ - i, [&](int64_t j, auto... count) FLASHINFER_INLINE {
      F own = Isa::load(x + i + j, count...);
      if constexpr (sizeof...(count) > 0) own = Isa::select(Isa::first(count...), own, Isa::set(-kInfinity));
      add(0, own);
    });
    if (list && i < size_) list->see_block(i);
    for (int chain = 1; chain < kChains; ++chain) largest[0] = Isa::max(largest[chain], largest[0]), zero[0] = zero[0] + zero[chain];
    const float sum = Isa::sum(zero[0]), max = Isa::max_of(largest[0]);
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
  /// Of logits: as it counts.
  float largest() const { return max_; }
  int64_t size() const { return size_; }
  const float* values() const { return x_; }
  float value(int64_t i) const { return x_[i]; }
  uint64_t rank(int64_t i) const { return order_rank(order_key(x_[i]), uint32_t(i)); }

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
  /// About log2 of the weight, for guesses, and back. Probabilities: their bits, whose exponent is the integer part.
  float exponent(float x) const {
    if constexpr (kLogits) return logit_exponent(x, max_, scale_);
    return float(int32_t(bit_cast<uint32_t>(weight(x)) - 0x3f800000u)) * 1.1920929e-7f;
  }
  float value_at(float exponent) const {
    if constexpr (kLogits) return max_ + exponent / scale_;
    return bit_cast<float>(uint32_t(0x3f800000 + int32_t(max(exponent, -126.0f) * 8388608.0f))) * max_;
  }
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

  /// f(i, weights, count) for runs of kRun elements, the last one shorter; what has a lower rank weighs nothing. What the compiler
  /// vectorises by itself reads them from a small array.
  static constexpr int kRun = 256;
  template <bool kRace = false, class Function>
  FLASHINFER_INLINE void for_each_run(uint64_t rank, const Function& f) const {
    const IsInPrefix<Isa> in_prefix(rank);
    float weights[kRun];
    for (int64_t i = 0; i < size_; i += kRun) {
      const int64_t count = min(size_ - i, int64_t(kRun));
      for_each_vec<Isa>(count, [&](int64_t j, auto... rest) FLASHINFER_INLINE {
        const F x = Isa::load(x_ + i + j, rest...);
        Isa::store(weights + j, Isa::select(in_prefix(x, i + j), kRace ? race_weight(x) : weight(x), Isa::set(0)), rest...);
      });
      f(i, weights, count);
    }
  }

  /// Of the elements from this rank up.
  FLASHINFER_INLINE uint64_t mass(uint64_t rank = kWholeRow) const {
    return outlined<Isa>([&]() FLASHINFER_INLINE {
      uint64_t sum = 0;
      for_each_run(rank, [&](int64_t, const float* weights, int64_t count) FLASHINFER_INLINE {
        uint64_t part = 0;
        for (int64_t j = 0; j < count; ++j) part += cpu::mass_of(weights[j]);
        sum += part;
      });
      return sum;
    });
  }

 private:
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
