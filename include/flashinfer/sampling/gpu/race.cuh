// What the kernels that draw tokens share of the race (sampling_params.hpp, 5): its random bits, and its best score so far.
//
// Most elements cannot win, and need neither a logarithm nor an exact weight: a score is at most weight / u, u = bits / 2^32, but for
// roundings, so what stays below the best score that any thread of the block has seen is dropped after one comparison. What an element
// costs is then its share of a Philox: 14 products and 14 exclusive-ors for four tokens.
#pragma once

#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/sampling/gpu/row_weight.cuh>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer::gpu {

/// The random bits of a row's race. `kHeld`: the keys of the rounds, and what the first makes of the row, are held in 15 registers. Else
/// keys are added up again for every four tokens, which is cheaper where few elements race.
template <bool kHeld>
class RaceNoise {
 public:
  __device__ RaceNoise(uint64_t seed, uint64_t offset, uint32_t draw)
      : key_(philox_key(seed)), keys_(key_), start_(counter_of_tokens(offset, draw, 0), key_, ptx::MulWide{}) {
    if constexpr (kHeld) {
#pragma unroll
      for (uint32_t& key : keys_.word) key = opaque(key);
#pragma unroll
      for (uint32_t& word : start_.word) word = opaque(word);
    }
  }

  /// Of neighbouring tokens, four or eight. Where `first` is no multiple of four, if that may be, they lie in a group more.
  template <int kCount, bool kMaySplit = true>
  __device__ void bits_of(int first, uint32_t (&bits)[kCount]) const {
    uint32_t all[kCount + 4];
#pragma unroll
    for (int j = 0; j < kCount; j += 4) copy(of_group(first + j), &all[j]);
    if (kMaySplit && first % 4 != 0) {
      copy(of_group(first + kCount), &all[kCount]);
#pragma unroll
      for (int by = 1; by <= 2; by *= 2) {
#pragma unroll
        for (int j = 0; j + by < kCount + 3; ++j) all[j] = first & by ? all[j + by] : all[j];
      }
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) bits[j] = all[j];
  }
  __device__ uint32_t bits_of(uint32_t token) const {
    const Philox group = of_group(int(token));
    const uint32_t low = token & 1 ? group.word[1] : group.word[0], high = token & 1 ? group.word[3] : group.word[2];
    return token & 2 ? high : low;
  }

 private:
  uint64_t key_;
  PhiloxKeys keys_;  // if held
  PhiloxStart start_;

  static __device__ void copy(const Philox& group, uint32_t* to) {
#pragma unroll
    for (int j = 0; j < 4; ++j) to[j] = group.word[j];
  }
  static __device__ uint32_t opaque(uint32_t x) { return uint32_t(ptx::opaque(int(x))); }
  __device__ PhiloxKeys keys() const {
    if constexpr (kHeld) {
      return keys_;
    } else {
      return PhiloxKeys(uint64_t(opaque(uint32_t(key_ >> 32))) << 32 | opaque(uint32_t(key_)));
    }
  }
  __device__ Philox of_group(int token) const { return philox(uint32_t(token) / 4, start_, keys(), ptx::MulWide{}); }
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
  /// What a chance must reach beside a score: for a unit of the random bits, if the score is a probability's.
  static __device__ float bar_of(float score) { return kLogits ? score - tolerance(score) : score * (0.9998f / 4294967296.0f); }
  /// Not below the score but for roundings; without a logarithm for probabilities, whose bar is for a unit of the random bits.
  __device__ bool has_chance(float x, uint32_t bits, float bar) const {
    if constexpr (kLogits) {
      return !(PortableScalar::fma(x, this->scale, 32.0f - gpu::ptx::lg2(float(bits))) < bar);
    } else {
      return x >= bar * float(bits);
    }
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
  /// What an element's weight must exceed, for each unit of its random bits, to have a chance.
  __device__ float bar() const { return RaceWeight<RowValues::probs>::bar_of(bit_cast<float>(*static_cast<volatile uint32_t*>(&bits_))); }
  __device__ void raise(float score) const {
    if (bit_cast<uint32_t>(score) > *static_cast<volatile uint32_t*>(&bits_)) atomicMax(&bits_, bit_cast<uint32_t>(score));
  }

 private:
  uint32_t& bits_;
};

}  // namespace flashinfer::gpu
