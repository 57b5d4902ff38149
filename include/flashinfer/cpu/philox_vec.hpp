// Host only. Philox of neighbouring counters in the lanes of vectors: the bits of core/philox.hpp, in the order of the counters.
#pragma once

#include <flashinfer/core/philox.hpp>
#include <flashinfer/cpu/isa.hpp>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // inside GCC 12's own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace flashinfer::cpu {

/// bits[4 i + j] is word j of philox({counter.word[0] + i, counter.word[1], ...}, key), upper[...] its upper 31 bits as a float.
template <class Isa>
struct PhiloxVec {
  static constexpr int kCounters = 4;
  static void run(Philox counter, uint64_t key, uint32_t* bits, float* upper) {
    for (int i = 0; i < kCounters; ++i, ++counter.word[0]) {
      const Philox random = philox(counter, key);
      for (int j = 0; j < 4; ++j) {
        bits[4 * i + j] = random.word[j];
        upper[4 * i + j] = float(int32_t(random.word[j] >> 1));
      }
    }
  }
};

#if defined(__x86_64__)

// Lane l holds the counter that makes the transpose at the end, which works within 128 bits, leave the counters in order.

template <>
struct PhiloxVec<Avx2> {
  static constexpr int kCounters = 8;

  FLASHINFER_AVX2 static void run(const Philox& counter, uint64_t key, uint32_t* bits, float* upper) {
    const __m256i lanes = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    __m256i c0 = _mm256_add_epi32(_mm256_set1_epi32(int(counter.word[0])), lanes), c1 = _mm256_set1_epi32(int(counter.word[1]));
    __m256i c2 = _mm256_set1_epi32(int(counter.word[2])), c3 = _mm256_set1_epi32(int(counter.word[3]));
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      __m256i a_high, a_low, b_high, b_low;
      multiply(c0, 0xd2511f53u, a_high, a_low);
      multiply(c2, 0xcd9e8d57u, b_high, b_low);
      c0 = _mm256_xor_si256(_mm256_xor_si256(b_high, c1), _mm256_set1_epi32(int(k0)));
      c1 = b_low;
      c2 = _mm256_xor_si256(_mm256_xor_si256(a_high, c3), _mm256_set1_epi32(int(k1)));
      c3 = a_low;
      k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
    }
    const __m256i a = _mm256_unpacklo_epi32(c0, c1), b = _mm256_unpacklo_epi32(c2, c3);
    const __m256i c = _mm256_unpackhi_epi32(c0, c1), d = _mm256_unpackhi_epi32(c2, c3);
    store(0, _mm256_unpacklo_epi64(a, b), bits, upper), store(1, _mm256_unpackhi_epi64(a, b), bits, upper);
    store(2, _mm256_unpacklo_epi64(c, d), bits, upper), store(3, _mm256_unpackhi_epi64(c, d), bits, upper);
  }

 private:
  FLASHINFER_AVX2 static void multiply(const __m256i& a, uint32_t m, __m256i& high, __m256i& low) {
    const __m256i factor = _mm256_set1_epi32(int(m));
    const __m256i even = _mm256_mul_epu32(a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  }
  FLASHINFER_AVX2 static void store(int i, const __m256i& words, uint32_t* bits, float* upper) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits + 8 * i), words);
    _mm256_storeu_ps(upper + 8 * i, _mm256_cvtepi32_ps(_mm256_srli_epi32(words, 1)));
  }
};

template <>
struct PhiloxVec<Avx512> {
  static constexpr int kCounters = 16;

  FLASHINFER_AVX512 static void run(const Philox& counter, uint64_t key, uint32_t* bits, float* upper) {
    const __m512i lanes = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i c0 = _mm512_add_epi32(_mm512_set1_epi32(int(counter.word[0])), lanes), c1 = _mm512_set1_epi32(int(counter.word[1]));
    __m512i c2 = _mm512_set1_epi32(int(counter.word[2])), c3 = _mm512_set1_epi32(int(counter.word[3]));
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      __m512i a_high, a_low, b_high, b_low;
      multiply(c0, 0xd2511f53u, a_high, a_low);
      multiply(c2, 0xcd9e8d57u, b_high, b_low);
      c0 = _mm512_ternarylogic_epi32(b_high, c1, _mm512_set1_epi32(int(k0)), 0x96);
      c1 = b_low;
      c2 = _mm512_ternarylogic_epi32(a_high, c3, _mm512_set1_epi32(int(k1)), 0x96);
      c3 = a_low;
      k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
    }
    const __m512i a = _mm512_unpacklo_epi32(c0, c1), b = _mm512_unpacklo_epi32(c2, c3);
    const __m512i c = _mm512_unpackhi_epi32(c0, c1), d = _mm512_unpackhi_epi32(c2, c3);
    store(0, _mm512_unpacklo_epi64(a, b), bits, upper), store(1, _mm512_unpackhi_epi64(a, b), bits, upper);
    store(2, _mm512_unpacklo_epi64(c, d), bits, upper), store(3, _mm512_unpackhi_epi64(c, d), bits, upper);
  }

 private:
  FLASHINFER_AVX512 static void multiply(const __m512i& a, uint32_t m, __m512i& high, __m512i& low) {
    const __m512i factor = _mm512_set1_epi32(int(m));
    const __m512i even = _mm512_mul_epu32(a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
    low = _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA);
    high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
  }
  FLASHINFER_AVX512 static void store(int i, const __m512i& words, uint32_t* bits, float* upper) {
    _mm512_storeu_si512(bits + 16 * i, words);
    _mm512_storeu_ps(upper + 16 * i, _mm512_cvtepi32_ps(_mm512_srli_epi32(words, 1)));
  }
};

#endif  // __x86_64__

}  // namespace flashinfer::cpu

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
