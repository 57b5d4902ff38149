// Philox4x32-7 and -10 (Salmon et al., SC'11): random bits as a function of a counter and a key. There is no state to keep, so what is
// drawn does not depend on the number of threads, their order or the launch: the same bits on the CPU and the GPU.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer {

struct Philox {
  uint32_t word[4];  // the counter going in, 128 random bits coming out
};

/// a * b in 64 bits. Kernels pass an instruction (gpu/ptx/math.cuh): nvcc 13.0 makes a full 64-bit product of this one.
struct WideProduct {
  FLASHINFER_HOST_DEVICE constexpr uint64_t operator()(uint32_t a, uint32_t b) const { return uint64_t(a) * b; }
};

/// Seven rounds pass BigCrush in the authors' tests, with counters and keys that count up as ours do. Ten, their default, are a margin that
/// would cost every token of a vocabulary; few tokens need the bits that they give besides.
inline constexpr int kPhiloxRounds = 7, kMostPhiloxRounds = 10;

/// The keys of the rounds, for those who draw often with one key.
struct PhiloxKeys {
  uint32_t word[2 * kPhiloxRounds];

  FLASHINFER_HOST_DEVICE constexpr explicit PhiloxKeys(uint64_t key) : word{} {
    for (uint32_t round = 0; round < kPhiloxRounds; ++round) {
      word[2 * round] = uint32_t(key) + round * 0x9e3779b9u;
      word[2 * round + 1] = uint32_t(key >> 32) + round * 0xbb67ae85u;
    }
  }
};

/// What the first three rounds make of the words of a counter but its first, and of the keys that meet only those: the same for all
/// counters that differ in the first word alone.
struct PhiloxStart {
  uint32_t word[4];

  template <class Product = WideProduct>
  FLASHINFER_HOST_DEVICE constexpr PhiloxStart(const Philox& counter, uint64_t key, const Product& product = {}) : word{} {
    const PhiloxKeys keys(key);
    const uint64_t b = product(counter.word[2], 0xcd9e8d57u);                                     // of the first round
    const uint64_t a = product(uint32_t(b >> 32) ^ counter.word[1] ^ keys.word[0], 0xd2511f53u);  // of the second
    word[0] = counter.word[3] ^ keys.word[1];
    word[1] = uint32_t(b) ^ keys.word[2], word[2] = uint32_t(a >> 32) ^ keys.word[3];
    word[3] = uint32_t(a) ^ keys.word[5];
  }
};

/// One round, with its two keys. (The second product first: in the other order ptxas takes two registers more in the races, and spills.)
template <class Product>
FLASHINFER_HOST_DEVICE constexpr Philox philox_round(const Philox& x, uint32_t low, uint32_t high, const Product& product) {
  const uint64_t b = product(x.word[2], 0xcd9e8d57u), a = product(x.word[0], 0xd2511f53u);
  return {{uint32_t(b >> 32) ^ x.word[1] ^ low, uint32_t(b), uint32_t(a >> 32) ^ x.word[3] ^ high, uint32_t(a)}};
}

/// Of a counter whose first word is this.
template <class Product = WideProduct>
FLASHINFER_HOST_DEVICE constexpr Philox philox(uint32_t first, const PhiloxStart& start, const PhiloxKeys& keys,
                                               const Product& product = {}) {
  const uint64_t a = product(first, 0xd2511f53u), b = product(uint32_t(a >> 32) ^ start.word[0], 0xcd9e8d57u);
  Philox x{{uint32_t(b >> 32) ^ start.word[1], uint32_t(b), uint32_t(a) ^ start.word[2], start.word[3]}};
  x = philox_round(x, keys.word[4], 0, product);  // the other key is in word[3]
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int round = 3; round < kPhiloxRounds; ++round) x = philox_round(x, keys.word[2 * round], keys.word[2 * round + 1], product);
  return x;
}
template <class Product = WideProduct>
FLASHINFER_HOST_DEVICE constexpr Philox philox(const Philox& counter, uint64_t key, const Product& product = {}) {
  return philox(counter.word[0], PhiloxStart(counter, key, product), PhiloxKeys(key), product);
}

/// What Philox4x32-10 makes of a counter of which Philox4x32-7 has made this: as many bits again, for three rounds more. `low`, `high`: the
/// two words of the key.
template <class Product = WideProduct>
FLASHINFER_HOST_DEVICE constexpr Philox philox_further(Philox random, uint32_t low, uint32_t high, const Product& product = {}) {
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (uint32_t round = kPhiloxRounds; round < kMostPhiloxRounds; ++round)
    random = philox_round(random, low + round * 0x9e3779b9u, high + round * 0xbb67ae85u, product);
  return random;
}

}  // namespace flashinfer
