// Philox4x32-7 (Salmon et al., SC'11): random bits as a function of a counter and a key. There is no state to keep, so what is
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
/// would cost every token of a vocabulary: three rounds are a tenth of what sampling by top_p executes.
inline constexpr int kPhiloxRounds = 7;

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

template <class Product = WideProduct>
FLASHINFER_HOST_DEVICE constexpr Philox philox(const Philox& counter, const PhiloxKeys& keys, const Product& product = {}) {
  uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t a = product(c0, 0xd2511f53u), b = product(c2, 0xcd9e8d57u);
    c0 = uint32_t(b >> 32) ^ c1 ^ keys.word[2 * round];
    c1 = uint32_t(b);
    c2 = uint32_t(a >> 32) ^ c3 ^ keys.word[2 * round + 1];
    c3 = uint32_t(a);
  }
  return {{c0, c1, c2, c3}};
}
template <class Product = WideProduct>
FLASHINFER_HOST_DEVICE constexpr Philox philox(const Philox& counter, uint64_t key, const Product& product = {}) {
  return philox(counter, PhiloxKeys(key), product);
}

}  // namespace flashinfer
