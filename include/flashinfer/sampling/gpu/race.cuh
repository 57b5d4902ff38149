// What the kernels that draw tokens share of the race (sampling_params.hpp, 5): its random bits, and its best score so far.
//
// Most elements cannot win, and need neither a logarithm nor an exact weight, nor all of their random bits: a score is at most
// weight / u, u = the 16 upper bits / 2^16, but for roundings, so what stays below the best score that any thread of the block has seen is
// dropped after one comparison. What an element costs is then its share of a Philox: 13 products and 13 exclusive-ors for eight tokens.
#pragma once

#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/sampling/gpu/row_hits.cuh>
#include <flashinfer/sampling/gpu/row_weight.cuh>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer::gpu {

/// The upper or the lower random bits of kCount tokens, two tokens a word.
template <int kCount>
struct RaceBits {
  uint32_t words[kCount / 2];

  static constexpr float kShift = 8388608.0f;  // 2^23
  /// With kShift added: a permutation of bytes, and no conversion, of which an SM does 16 a clock.
  __device__ float shifted(int j) const {
    const uint32_t word = words[j / 2];
    return bit_cast<float>((j % 2 ? word >> 16 : word & 0xffffu) | 0x4b000000u);
  }
  __device__ float operator[](int j) const { return shifted(j) - kShift; }
  /// Of a token that is not known when compiling.
  __device__ uint32_t at(int j) const { return element_of(words, j / 2) >> (j % 2 * 16) & 0xffffu; }
};
/// All 32 bits of the j-th token.
template <int kCount>
FLASHINFER_DEVICE uint32_t bits_at(const RaceBits<kCount>& upper, const RaceBits<kCount>& lower, int j) {
  return upper.at(j) << 16 | lower.at(j);
}

/// The random bits of a row's race. `kHeld`: the keys of the rounds, and what the first three make of the row, are held in 13 registers. Else
/// keys are added up again for every Philox, which is cheaper where few elements race.
template <bool kHeld>
class RaceNoise {
 public:
  __device__ RaceNoise(uint64_t seed, uint64_t offset, uint32_t draw, uint32_t step = 0)
      : key_(philox_key(seed)), step_(step << 24), keys_(key_), start_(counter_of_token(offset, draw, 0), key_, ptx::MulWide{}) {
    if constexpr (kHeld) {
#pragma unroll
      for (uint32_t& key : keys_.word) key = opaque(key);
#pragma unroll
      for (uint32_t& word : start_.word) word = opaque(word);
    }
  }

  /// For few tokens: 7 registers less.
  __device__ RaceNoise<false> sparse() const { return {held_key(), step_, start_}; }

  /// Upper bits of a group of tokens, the first of which this is: four, and those kTokensApart behind them.
  __device__ RaceBits<8> upper_of_group(int first) const { return as_bits(of_group(group_of_token(uint32_t(first)))); }
  /// Their lower bits.
  __device__ RaceBits<8> lower_of_group(const RaceBits<8>& upper) const {
    return as_bits(further({{upper.words[0], upper.words[1], upper.words[2], upper.words[3]}}));
  }
  /// Upper bits of neighbours, four or eight. Where `first` is no multiple of four, if that may be, they lie in one more group. It may be
  /// negative.
  template <int kCount>
  __device__ RaceBits<kCount> upper_of(int first) const {
    return neighbours<kCount>(first, [&](uint32_t token) { return of_group(group_of_token(token)); });
  }
  /// Of four neighbours, the upper or the lower ones: there once, and called, for rows that begin where hardly any does.
  static __device__ __noinline__ RaceBits<4> four_of(RaceNoise noise, int first, bool lower) {
    return noise.neighbours<4>(first, [&](uint32_t token) {
      const Philox upper = noise.of_group(group_of_token(token));
      return lower ? noise.further(upper) : upper;
    });
  }
  /// All 32 of one token.
  __device__ uint32_t bits_of(uint32_t token) const {
    return noise_bits(of_group(group_of_token(token)), held_key(), token, ptx::MulWide{});
  }

 private:
  template <bool>
  friend class RaceNoise;
  __device__ RaceNoise(uint64_t key, uint32_t step, const PhiloxStart& start) : key_(key), step_(step), keys_(0), start_(start) {
    static_assert(!kHeld);
  }

  uint64_t key_;
  uint32_t step_;    // of the counters
  PhiloxKeys keys_;  // if held
  PhiloxStart start_;

  /// Of what group(token) says of the group of a token.
  template <int kCount, class GroupOf>
  __device__ static RaceBits<kCount> neighbours(int first, const GroupOf& group) {
    uint32_t words[kCount / 2 + 2];
    const auto copy_four = [&](uint32_t token, uint32_t* to) {
      const Philox own = group(token);
      const bool apart = token & kTokensApart;
      to[0] = apart ? own.word[2] : own.word[0], to[1] = apart ? own.word[3] : own.word[1];
    };
#pragma unroll
    for (int j = 0; j < kCount; j += 4) copy_four(uint32_t(first + j), &words[j / 2]);
    if (first % 4 != 0) {
      copy_four(uint32_t(first + kCount), &words[kCount / 2]);
#pragma unroll
      for (int j = 0; j <= kCount / 2; ++j) words[j] = first & 2 ? words[j + 1] : words[j];
#pragma unroll
      for (int j = 0; j < kCount / 2; ++j) words[j] = first & 1 ? words[j] >> 16 | words[j + 1] << 16 : words[j];
    }
    RaceBits<kCount> bits;
#pragma unroll
    for (uint32_t& word : bits.words) word = words[&word - bits.words];
    return bits;
  }
  static __device__ RaceBits<8> as_bits(const Philox& group) { return {{group.word[0], group.word[1], group.word[2], group.word[3]}}; }
  static __device__ uint32_t opaque(uint32_t x) { return uint32_t(ptx::opaque(int(x))); }
  __device__ uint64_t opaque_key() const { return uint64_t(opaque(uint32_t(key_ >> 32))) << 32 | opaque(uint32_t(key_)); }
  __device__ PhiloxKeys keys() const {
    if constexpr (kHeld) {
      return keys_;
    } else {
      return PhiloxKeys(opaque_key());
    }
  }
  __device__ Philox of_group(uint32_t group) const { return philox(group | step_, start_, keys(), ptx::MulWide{}); }
  /// The key, from those of the last round, if they are held.
  __device__ uint64_t held_key() const {
    if constexpr (kHeld) {
      constexpr PhiloxKeys kOfZero(0);
      constexpr int kLast = 2 * kPhiloxRounds - 2;
      return uint64_t(opaque(keys_.word[kLast + 1] - kOfZero.word[kLast + 1])) << 32 | opaque(keys_.word[kLast] - kOfZero.word[kLast]);
    } else {
      return opaque_key();
    }
  }
  __device__ Philox further(const Philox& upper) const {
    const uint64_t key = held_key();
    return philox_further(upper, uint32_t(key), uint32_t(key >> 32), ptx::MulWide{});
  }
};

/// What the chance of a weight must reach, for each unit of the upper bits of its noise.
struct RaceBar {
  float bar, shift;
  __device__ explicit RaceBar(float bar) : bar(bar), shift(bar * -RaceBits<2>::kShift) {}
  /// One fused product is exact where `upper` is shifted. True also where either is too large for it.
  template <int kCount>
  __device__ bool is_reached(float weight, const RaceBits<kCount>& upper, int j) const {
    return !(weight < PortableScalar::fma(bar, upper.shifted(j), shift));
  }
};

/// The score of an element and, above it in order among equal ones, its index: the greatest wins.
__device__ inline uint64_t race_entry(float score, uint32_t index) { return order_rank(bit_cast<uint32_t>(score), index); }

/// What elements weigh, and how they score. Probabilities race as they are, and their scores are exact; logits by the logarithms of their
/// scores, approximately, before the row's maximum is known.
template <RowValues kValues>
struct RaceWeight : RowWeight<kValues> {
  static constexpr bool kLogits = kValues == RowValues::logits;

  /// Keys have the order of scores. Those of probabilities are not negative, and their bits will do.
  static __device__ uint32_t key_of(float score) { return kLogits ? order_key(score) : bit_cast<uint32_t>(score); }
  static __device__ float score_of_key(uint32_t key) { return kLogits ? value_of_order_key<float>(key) : bit_cast<float>(key); }

  /// How far scores may be from the logarithms of the exact ones: an approximate logarithm and the roundings of x * c on one side, those of
  /// (x - M) * c and of the exact score on the other. Ten times what these add up to.
  static __device__ float tolerance(float score) { return 1e-4f + 1e-6f * fabsf(score); }
  /// The score, as the first race has it, of an exact one.
  __device__ float score_of_exact(float score) const {
    return kLogits ? PortableScalar::fma(this->max, this->scale, gpu::ptx::lg2(score)) : score;
  }
  /// What a chance must reach beside a score: for a unit of the upper bits, if the score is a probability's.
  static __device__ float bar_of(float score) { return kLogits ? score - tolerance(score) : score * (0.9998f / 65536.0f); }
  /// Not below the score but for roundings; without a logarithm for probabilities.
  template <int kCount>
  __device__ bool has_chance(float x, const RaceBits<kCount>& upper, int j, const RaceBar& bar) const {
    if constexpr (kLogits) {
      return !(PortableScalar::fma(x, this->scale, -gpu::ptx::lg2(upper[j])) < bar.bar - 16.0f);
    } else {
      return bar.is_reached(x, upper, j);
    }
  }
  /// What it scores at least, or nearly: the noise is at most u / (1 - u) of a u above its upper bits.
  __device__ float least_score(float x, float upper) const {
    const float odds = (65535.0f - upper) * gpu::ptx::rcp(upper + 1) * 0.9999f;
    return kLogits ? PortableScalar::fma(x, this->scale, gpu::ptx::lg2(odds)) : x * odds;
  }
  __device__ float score_of(float x, uint32_t bits) const {
    if constexpr (kLogits) {
      return PortableScalar::fma(finite_logit(x), this->scale, -gpu::ptx::lg2(exponential_noise(bits)));
    } else {
      return race_score(finite_prob(x), bits);
    }
  }
};

/// The best score of a block so far, in shared memory: as bits, whose order is that of scores.
class BestScore {
 public:
  __device__ explicit BestScore(uint32_t& bits) : bits_(bits) {}
  /// What an element's weight must reach, for each unit of its upper bits, to have a chance.
  __device__ float bar() const { return RaceWeight<RowValues::probs>::bar_of(bit_cast<float>(*static_cast<volatile uint32_t*>(&bits_))); }
  __device__ void raise(float score) const {
    if (bit_cast<uint32_t>(score) > *static_cast<volatile uint32_t*>(&bits_)) atomicMax(&bits_, bit_cast<uint32_t>(score));
  }

 private:
  uint32_t& bits_;
};

}  // namespace flashinfer::gpu
