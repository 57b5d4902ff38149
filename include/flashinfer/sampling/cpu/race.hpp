// Host only. The race of sampling_params.hpp on the CPU: the highest weight / noise wins.
#pragma once

#include <flashinfer/cpu/philox_vec.hpp>
#include <flashinfer/cpu/vec.hpp>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer::cpu {

class Race {
 public:
  Race(uint64_t seed, uint64_t offset, uint32_t draw, uint32_t step = 0) : seed_(seed), offset_(offset), draw_(draw), step_(step) {}

  /// The winner so far; -1 if nothing that entered had a weight.
  int64_t token() const { return token_; }

  /// One token; tokens enter in rising order.
  void enter(int64_t token, float weight) {
    if (token / 4 != block_) {
      block_ = token / 4;
      bits_ = philox_of_tokens(seed_, offset_, draw_, uint32_t(token), step_);
    }
    run(token, weight, bits_.word[token % 4]);
  }

  /// Tokens first to first + count - 1; `first` is a multiple of 4.
  template <class Isa>
  FLASHINFER_INLINE void enter(int64_t first, const float* weights, int64_t count) {
    constexpr int kTokens = 4 * PhiloxVec<Isa>::kCounters;
    uint32_t bits[kTokens];
    float upper[kTokens];
    for (int64_t i = 0; i < count; i += kTokens) {
      const Philox counter{{uint32_t((first + i) / 4) | step_ << 24, draw_, uint32_t(offset_), uint32_t(offset_ >> 32)}};
      PhiloxVec<Isa>::run(counter, philox_key(seed_), bits, upper);
      uint32_t records = 0;
      const typename Isa::F bound = Isa::set(best_ * kUnit), margin = Isa::set(kMargin);
      const int64_t here = count - i < kTokens ? count - i : kTokens;
      for_each_vec<Isa>(here, [&](int64_t j, auto... rest) FLASHINFER_INLINE {
        records |= Isa::bits(Isa::less(bound * Isa::load(upper + j, rest...), Isa::load(weights + i + j, rest...) * margin));
      });
      if (records)
        for (int64_t j = 0; j < here; ++j) run(first + i + j, weights[i + j], bits[j]);
    }
  }

 private:
  // The noise is not below bits / 2^32 but for roundings: few tokens have to compute it.
  static constexpr float kMargin = 1.000002f, kUnit = 4.6566128730773926e-10f;  // 2^-31

  FLASHINFER_INLINE void run(int64_t token, float weight, uint32_t bits) {
    if (!(weight * kMargin > best_ * kUnit * float(int32_t(bits >> 1)))) return;
    const float score = race_score(weight, bits);
    if (score > best_) best_ = score, token_ = token;
  }

  uint64_t seed_, offset_;
  uint32_t draw_, step_;
  int64_t block_ = -1, token_ = -1;
  Philox bits_{};
  float best_ = 0;
};

}  // namespace flashinfer::cpu
