// What host and device share of softmax over the vocabulary: what elements weigh, and the arguments of one launch.
//
//   output = f / Z, Z the sum of all f. A row with a NaN is NaN, one of -inf's is 0. Temperature not above 0: one-hot at the first element
//   of the order.
//
// Weights must be relative to something near the largest of them. The row's maximum is known at its end only, and then the row would be
// gone over again, after everybody has met; but a sample tells nearly as much at its beginning:
//   f = 2^(x * c - a), c = log2(e) / temperature, a an integer just above x * c for the largest x of a sample     (SoftmaxWeight)
// which 2^-40 is fine enough for, and 2^-20 for the few weights from 2 on, whose last bit is coarser. Where the sample says nothing (-inf),
// or the row's largest element weighs more than 2^20, as where a mask leaves a few, f is that of sampling_params.hpp, 2. Sums are of
// integers, exact in any order; the sample depends on nothing but the row.
#pragma once

#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer {

struct SoftmaxParams {
  const void* input = nullptr;  // [num_rows, vocab_size] logits
  float* output = nullptr;      // [num_rows, vocab_size]; may be the input where that is f32
  int64_t input_stride = 0, output_stride = 0;
  int64_t num_rows = 0;
  int32_t vocab_size = 0;
  RowParam<float> temperature{nullptr, 1.0f};
};

/// The sample of a row: groups of neighbouring elements, one access of a warp each, spread over it. (Single elements cost a launch of 512
/// rows 20 % on an H200.)
struct SoftmaxSample {
  static constexpr int32_t kGroups = 32, kGroup = 32;
  /// Of a group's i-th element. Short rows have some of them several times.
  static FLASHINFER_HOST_DEVICE constexpr int32_t index(int32_t group, int32_t i, int32_t vocab_size) {
    return min(group * max(vocab_size / kGroups, kGroup) + i, vocab_size - 1);
  }
};

/// What elements weigh where a sample tells enough.
struct SoftmaxWeight {
  static constexpr float kMostAbove = 20;  // log2 of the largest weight

  float scale, anchor;  // NaN: the sample tells nothing

  /// `sampled`: the largest element of the sample, not NaN.
  FLASHINFER_HOST_DEVICE SoftmaxWeight(float sampled, float temperature) : scale(logit_scale(temperature)) {
    constexpr float kAbove = 4, kMost = 4194304.0f, kMagic = 12582912.0f;  // kAbove: most rows have few elements that weigh 2 or more
    const float t = PortableScalar::fma(finite_logit(sampled), scale, 0.0f);
    anchor = t > -kMost && t < kMost ? (t + kMagic) - kMagic + kAbove : bit_cast<float>(0x7fc00000u);
  }
  FLASHINFER_HOST_DEVICE bool is_known() const { return anchor == anchor; }
  /// Of a row whose largest element is this.
  FLASHINFER_HOST_DEVICE bool suits(float largest) const { return largest < kLargestFloat && exponent(largest) <= kMostAbove; }
  FLASHINFER_HOST_DEVICE float exponent(float x) const { return PortableScalar::fma(x, scale, -anchor); }
  FLASHINFER_HOST_DEVICE float operator()(float x) const { return portable_exp2(exponent(x)); }
};

/// Z, of weights below 2 and from 2 on.
struct SoftmaxMass {
  uint64_t light = 0, heavy = 0;

  static constexpr float kHeavy = 2, kHeavyUnit = 1048576.0f;
  /// Limited, for a weight of a row that the sample does not suit may be anything.
  FLASHINFER_HOST_DEVICE static uint64_t mass_of_heavy(float f) { return uint64_t(min(f, 2 * kHeavyUnit) * kHeavyUnit); }
  FLASHINFER_HOST_DEVICE float weight() const { return weight_of_mass(light) + float(heavy) * (1.0f / kHeavyUnit); }
};

}  // namespace flashinfer
