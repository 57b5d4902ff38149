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
/// of up to 256 vectors of four are summed in 32 bits.
class MassSum {
 public:
  template <int kCount>
  __device__ void add(const float (&f)[kCount]) {
    bool none[kCount] = {};
    MassSum nothing;
    add(f, none, nothing);
  }
  /// And those that `counts` says to `part` too, which nobody else adds to.
  template <int kCount>
  __device__ void add(const float (&f)[kCount], const bool (&counts)[kCount], MassSum& part) {
    constexpr float kMagic = 12582912.0f, kStep = 1048576.0f;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const float high = PortableScalar::fma(f[j], kStep, kMagic), rest = PortableScalar::fma(f[j], kStep, -(high - kMagic));
      const uint32_t high_bits = bit_cast<uint32_t>(high), low_bits = bit_cast<uint32_t>(PortableScalar::fma(rest, kStep, kMagic));
      high_ += high_bits, low_ += low_bits;
      if (counts[j]) part.high_ += high_bits - kBits, part.low_ += low_bits - kBits;
    }
    elements_ += kCount;
    if (elements_ == 1024) fold(), part.fold();
  }
  __device__ uint64_t total() {
    fold();
    return total_;
  }

 private:
  uint64_t total_ = 0;
  static constexpr uint32_t kBits = 0x4b400000u;  // of the float that is added for the rounding, with every element
  uint32_t high_ = 0, low_ = 0;                   // integers of either sign, and as often these bits as there are elements
  int elements_ = 0;

  __device__ void fold() {
    const uint32_t bits = uint32_t(elements_) * kBits;
    total_ += uint64_t((int64_t(int32_t(high_ - bits)) << 20) + int32_t(low_ - bits));
    high_ = low_ = 0, elements_ = 0;
  }
};

}  // namespace flashinfer::gpu
