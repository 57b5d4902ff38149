// Host only. Philox of neighbouring counters in the lanes of vectors: the bits of core/philox.hpp, 16 to a float.
#pragma once

#include <flashinfer/core/philox.hpp>
#include <flashinfer/cpu/isa.hpp>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // inside GCC 12's own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace flashinfer::cpu {

/// Of philox({counter.word[0] + i, counter.word[1], ...}, key): first[4 i + j] is the j-th part of 16 bits, as a float, last[4 i + j] the
/// (4 + j)-th. The lower half of a word is the first of its two parts.
template <class Isa>
struct PhiloxVec {
  static constexpr int kCounters = 4;
  static void run(Philox counter, uint64_t key, float* first, float* last) {
    for (int i = 0; i < kCounters; ++i, ++counter.word[0]) {
      const Philox random = philox(counter, key);
      for (int j = 0; j < 4; ++j) {
        first[4 * i + j] = float(int32_t(random.word[j / 2] >> (j % 2 * 16) & 0xffff));
        last[4 * i + j] = float(int32_t(random.word[2 + j / 2] >> (j % 2 * 16) & 0xffff));
      }
    }
  }
};

#if defined(__x86_64__)

// Lane l holds the counter that makes the interleaving at the end, which works within 128 bits, leave the counters in order.

template <>
struct PhiloxVec<Avx2> {
  static constexpr int kCounters = 8;

  FLASHINFER_AVX2 static void run(const Philox& counter, uint64_t key, float* first, float* last) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
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
    store(_mm256_unpacklo_epi32(c0, c1), first), store(_mm256_unpackhi_epi32(c0, c1), first + 16);
    store(_mm256_unpacklo_epi32(c2, c3), last), store(_mm256_unpackhi_epi32(c2, c3), last + 16);
  }

 private:
  FLASHINFER_AVX2 static void multiply(const __m256i& a, uint32_t m, __m256i& high, __m256i& low) {
    const __m256i factor = _mm256_set1_epi32(int(m));
    const __m256i even = _mm256_mul_epu32(a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  }
  FLASHINFER_AVX2 static void store(const __m256i& words, float* to) {
    _mm256_storeu_ps(to, _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(words))));
    _mm256_storeu_ps(to + 8, _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1))));
  }
};

template <>
struct PhiloxVec<Avx512> {
  static constexpr int kCounters = 16;

  FLASHINFER_AVX512 static void run(const Philox& counter, uint64_t key, float* first, float* last) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
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
    store(_mm512_unpacklo_epi32(c0, c1), first), store(_mm512_unpackhi_epi32(c0, c1), first + 32);
    store(_mm512_unpacklo_epi32(c2, c3), last), store(_mm512_unpackhi_epi32(c2, c3), last + 32);
  }

 private:
  FLASHINFER_AVX512 static void multiply(const __m512i& a, uint32_t m, __m512i& high, __m512i& low) {
    const __m512i factor = _mm512_set1_epi32(int(m));
    const __m512i even = _mm512_mul_epu32(a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
    low = _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA);
    high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
  }
  FLASHINFER_AVX512 static void store(const __m512i& words, float* to) {
    _mm512_storeu_ps(to, _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(words))));
    _mm512_storeu_ps(to + 16, _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(words, 1))));
  }
};

#endif  // __x86_64__

}  // namespace flashinfer::cpu

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
