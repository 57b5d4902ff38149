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
    const uint32_t group = group_of_token(uint32_t(token));
    if (int64_t(group) != group_) group_ = group, upper_ = philox(counter(uint32_t(token)), philox_key(seed_));
    if (has_chance(weight, float(int32_t(bits_of_group(upper_, uint32_t(token)))))) run(token, weight, upper_);
  }

  /// Tokens first to first + count - 1; `first` is a multiple of kRun.
  template <class Isa>
  FLASHINFER_INLINE void enter(int64_t first, const float* weights, int64_t count) {
    constexpr int kPart = 64;  // tokens that are looked at one by one if one of them has a chance
    float upper[kRun];
    for (int64_t i = 0; i < count; i += kRun) {
      Philox groups = counter(uint32_t(first + i));
      for (int at = 0; at < int(kTokensApart); at += 4 * PhiloxVec<Isa>::kCounters, groups.word[0] += PhiloxVec<Isa>::kCounters)
        PhiloxVec<Isa>::run(groups, philox_key(seed_), upper + at, upper + kTokensApart + at);
      const int64_t here = count - i < kRun ? count - i : kRun;
      for (int64_t begin = 0; begin < here; begin += kPart) {
        uint32_t chances = 0;
        const typename Isa::F bound = Isa::set(best_ * kUnit), margin = Isa::set(kMargin);
        const int64_t of_part = here - begin < kPart ? here - begin : kPart;
        for_each_vec<Isa>(of_part, [&](int64_t j, auto... rest) FLASHINFER_INLINE {
          chances |=
              Isa::bits(Isa::less(bound * Isa::load(upper + begin + j, rest...), Isa::load(weights + i + begin + j, rest...) * margin));
        });
        if (chances)
          for (int64_t j = begin; j < begin + of_part; ++j) {
            const int64_t token = first + i + j;
            if (has_chance(weights[i + j], upper[j])) run(token, weights[i + j], philox(counter(uint32_t(token)), philox_key(seed_)));
          }
      }
    }
  }

 private:
  static constexpr int kRun = 2 * int(kTokensApart);
  // The noise is not below its upper bits / 2^16 but for roundings: few tokens have to compute it.
  static constexpr float kMargin = 1.000002f, kUnit = 1.52587890625e-5f;  // 2^-16

  Philox counter(uint32_t token) const { return counter_of_token(offset_, draw_, token, step_); }
  FLASHINFER_INLINE bool has_chance(float weight, float upper) const { return weight * kMargin > best_ * kUnit * upper; }
  FLASHINFER_INLINE void run(int64_t token, float weight, const Philox& upper) {
    const float score = race_score(weight, noise_bits(upper, philox_key(seed_), uint32_t(token)));
    if (score > best_) best_ = score, token_ = token;
  }

  uint64_t seed_, offset_;
  uint32_t draw_, step_;
  int64_t group_ = -1, token_ = -1;
  Philox upper_{};
  float best_ = 0;
};

}  // namespace flashinfer::cpu
