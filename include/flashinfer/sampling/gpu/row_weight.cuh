// What elements of a row weigh in kernels, prefixes of its order, and sums of masses (sampling_params.hpp, 1 to 3).
#pragma once

#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer::gpu {

/// The rank of -inf: nothing that is not NaN lies below.
inline constexpr uint64_t kLowestRank = uint64_t(order_key(-kInfinity)) << 32;

/// What elements of a row weigh: f of sampling_params.hpp. -inf weighs nothing: what does not count is replaced by it before its weight is
/// computed, for then there is no branch.
template <RowValues kValues>
struct RowWeight {
  float max = 0, scale = 0;

  __device__ float operator()(float x) const {
    if constexpr (kValues == RowValues::logits) {
      return portable_exp2(logit_exponent(x, max, scale));
    } else {
      return ptx::multiply_saturate(x, scale);  // prob_weight
    }
  }
  /// Of a row with this maximum; false: nothing to weigh.
  __device__ bool set(float largest, float temperature) {
    if constexpr (kValues == RowValues::logits) {
      max = finite_logit(largest);
      scale = logit_scale(temperature);
      return largest > -kInfinity;
    } else {
      max = finite_prob(largest);
      scale = prob_scale(max);
      return max >= kLeastProb;
    }
  }
  /// log2 of the weight, or near it: for guesses. Monotone.
  __device__ float exponent(float x) const {
    if constexpr (kValues == RowValues::logits) {
      return logit_exponent(x, max, scale);
    } else {
      return float(int32_t(bit_cast<uint32_t>((*this)(x)) - 0x3f800000u)) * 1.1920929e-7f;
    }
  }
  /// The rank of the least element that min_p keeps, which is off at 0. By whole warps.
  __device__ uint64_t floor(float min_p) const {
    if (!(min_p > 0)) return kLowestRank;
    if constexpr (kValues == RowValues::probs) {
      return uint64_t(order_key(least_prob(min_p, max))) << 32;
    } else {
      // The exponent is monotone in the value: the least key that passes is found 32 keys at a time, by every warp for itself.
      const float limit = least_exponent(min_p);
      uint32_t low = order_key(-kInfinity), high = order_key(max);  // low fails, high passes
      const uint32_t lane = threadIdx.x % kWarpSize;
      while (high - low > 1) {
        const uint32_t step = (high - low) / 33 + 1, key = min(low + (lane + 1) * step, high);
        const bool passes = logit_exponent(value_of_order_key<float>(key), max, scale) >= limit;
        const uint32_t passing = __ballot_sync(0xffffffffu, passes);
        const int first = passing ? __ffs(int(passing)) - 1 : 32;
        const uint32_t base = low;
        if (first < 32) high = min(base + uint32_t(first + 1) * step, high);
        low = min(base + uint32_t(first) * step, high - 1);
      }
      return uint64_t(high) << 32;
    }
  }
  /// About the value of that exponent.
  __device__ float value_at(float exponent) const {
    if constexpr (kValues == RowValues::logits) {
      return max + exponent / scale;
    } else {
      return bit_cast<float>(uint32_t(0x3f800000 + int32_t(exponent * 8388608.0f))) * max;
    }
  }
};

/// Elements of rank `rank` and above, and their mass.
struct RowPrefix {
  uint64_t rank, mass;

  /// Whether an element belongs to a prefix, without its rank: one comparison, with the last element's value up to its index, with the next
  /// larger float after it.
  struct Test {
    float least, next;
    int last;
    __device__ bool reaches(float x) const { return x >= least; }
    __device__ bool operator()(float x, int index) const { return x >= (index <= last ? least : next); }
  };
  __device__ Test test() const {
    const uint32_t key = key_of_rank(rank);
    return {value_of_order_key<float>(key), value_of_order_key<float>(key + 1), int(min(index_of_rank(rank), 0x7fffffffu))};
  }
};

/// Sums mass_of(f) with two integer additions an element: the integers lie in the low bits of the two floats that mass_of rounds to. Those
/// of kAtOnce elements are summed in 32 bits.
class MassSum {
 public:
  static constexpr int kAtOnce = 2048;
  template <int kCount>
  __device__ void add(const float (&f)[kCount]) {
    add_few(f);
    fold_if_full();
  }
  /// Where there are no more than kAtOnce in all.
  template <int kCount>
  __device__ void add_few(const float (&f)[kCount]) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const Bits bits(f[j]);
      high_ += bits.high, low_ += bits.low;
    }
    elements_ += kCount;
  }
  /// And those that `counts` says to `part` too, which nobody else adds to.
  template <int kCount>
  __device__ void add(const float (&f)[kCount], const bool (&counts)[kCount], MassSum& part) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const Bits bits(f[j]);
      high_ += bits.high, low_ += bits.low;
      part.high_ += counts[j] ? bits.high : kBits, part.low_ += counts[j] ? bits.low : kBits;
    }
    elements_ += kCount, part.elements_ += kCount;
    if (fold_if_full()) part.fold();
  }
  __device__ uint64_t total() {
    fold();
    return total_;
  }

 private:
  static constexpr float kMagic = 12582912.0f, kStep = 1048576.0f;
  static constexpr uint32_t kBits = bit_cast<uint32_t>(kMagic);  // are added with every element
  struct Bits {
    uint32_t high, low;
    __device__ explicit Bits(float f) {
      const float rounded = PortableScalar::fma(f, kStep, kMagic), rest = PortableScalar::fma(f, kStep, -(rounded - kMagic));
      high = bit_cast<uint32_t>(rounded), low = bit_cast<uint32_t>(PortableScalar::fma(rest, kStep, kMagic));
    }
  };
  uint64_t total_ = 0;
  uint32_t high_ = 0, low_ = 0;  // the latter of either sign
  int elements_ = 0;

  __device__ bool fold_if_full() {
    if (elements_ != kAtOnce) return false;
    fold();
    return true;
  }
  __device__ void fold() {
    const uint32_t bits = uint32_t(elements_) * kBits;
    total_ = folded(total_, high_ - bits, low_ - bits);
    high_ = low_ = 0, elements_ = 0;
  }
  /// A call: else ptxas makes instructions of every turn of it, with predicates that are off.
  static __device__ __noinline__ uint64_t folded(uint64_t total, uint32_t high, uint32_t low) {
    return total + (uint64_t(high) << 20) + uint64_t(int64_t(int32_t(low)));
  }
};

}  // namespace flashinfer::gpu
