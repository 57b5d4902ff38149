// Host only. Eight floats of AVX2 with FMA and F16C. Every member has the target attribute; see cpu/isa.hpp for how kernels
// reach it, and cpu/vec_baseline.hpp for what each operation means.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include <flashinfer/core/number.hpp>

#define FLASHINFER_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace flashinfer::cpu {

struct Avx2 {
  static constexpr int kLanes = 8;

  struct F {
    __m256 v;
    F() = default;
    // Not trivial: F then travels by reference in every call that is not inlined, whatever the caller's target is.
    F(const F& other) : v(other.v) {}
    F& operator=(const F& other) {
      v = other.v;
      return *this;
    }
    FLASHINFER_AVX2 explicit F(__m256 value) : v(value) {}

    FLASHINFER_AVX2 friend F operator+(const F& a, const F& b) { return F(_mm256_add_ps(a.v, b.v)); }
    FLASHINFER_AVX2 friend F operator-(const F& a, const F& b) { return F(_mm256_sub_ps(a.v, b.v)); }
    FLASHINFER_AVX2 friend F operator*(const F& a, const F& b) { return F(_mm256_mul_ps(a.v, b.v)); }
    FLASHINFER_AVX2 friend F operator/(const F& a, const F& b) { return F(_mm256_div_ps(a.v, b.v)); }
  };
  using M = F;  // all bits of a lane

  FLASHINFER_AVX2 static F set(float x) { return F(_mm256_set1_ps(x)); }
  FLASHINFER_AVX2 static F iota() { return F(_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7)); }
  FLASHINFER_AVX2 static F fma(const F& a, const F& b, const F& c) { return F(_mm256_fmadd_ps(a.v, b.v, c.v)); }
  FLASHINFER_AVX2 static F max(const F& a, const F& b) { return F(_mm256_max_ps(a.v, b.v)); }
  FLASHINFER_AVX2 static F min(const F& a, const F& b) { return F(_mm256_min_ps(a.v, b.v)); }
  FLASHINFER_AVX2 static F abs(const F& a) { return F(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)); }
  FLASHINFER_AVX2 static F sqrt(const F& a) { return F(_mm256_sqrt_ps(a.v)); }
  FLASHINFER_AVX2 static F round(const F& a) { return F(_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
  /// In two factors, so that results that are subnormal or infinite come out right.
  FLASHINFER_AVX2 static F scale_by_power_of_two(const F& a, const F& n) {
    const __m256i exponent = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(exponent, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(exponent, half), bias), 23));
    return F(_mm256_mul_ps(_mm256_mul_ps(a.v, first), second));
  }

  FLASHINFER_AVX2 static M less(const F& a, const F& b) { return F(_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)); }
  FLASHINFER_AVX2 static uint32_t bits(const M& m) { return uint32_t(_mm256_movemask_ps(m.v)); }
  FLASHINFER_AVX2 static M first(int count) { return less(iota(), set(float(count))); }
  FLASHINFER_AVX2 static F select(const M& m, const F& yes, const F& no) { return F(_mm256_blendv_ps(no.v, yes.v, m.v)); }

  FLASHINFER_AVX2 static float sum(const F& a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  FLASHINFER_AVX2 static float max_of(const F& a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }

  FLASHINFER_AVX2 static void transpose(F (&x)[kLanes]) {
    __m256 pair[8], quad[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) pair[i] = _mm256_unpacklo_ps(x[i].v, x[i + 1].v), pair[i + 1] = _mm256_unpackhi_ps(x[i].v, x[i + 1].v);
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44), quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
      quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44), quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      x[i].v = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20);
      x[i + 4].v = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31);
    }
  }

  FLASHINFER_AVX2 static F load(const float* p) { return F(_mm256_loadu_ps(p)); }
  FLASHINFER_AVX2 static F load(const f16* p) { return F(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
  FLASHINFER_AVX2 static F load(const bf16* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return F(_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
  }
  FLASHINFER_AVX2 static F load(const e5m2* p) {
    return F(_mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))), 8)));
  }
  /// As f16 with the exponent in its low bits, then times 2^8 for the difference of the biases.
  FLASHINFER_AVX2 static F load(const e4m3* p) {
    const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m128i magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x7f));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
    // NaN (0x7f) becomes f16's NaN, which the product keeps.
    const __m128i nan = _mm_and_si128(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f)), _mm_set1_epi16(0x7e00));
    const __m128i half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(magnitude, 7), sign), nan);
    return F(_mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f)));
  }
  template <class T>
  FLASHINFER_AVX2 static F load(const T* p, int count) {
    T padded[kLanes] = {};
    std::memcpy(padded, p, size_t(count) * sizeof(T));
    return load(padded);
  }

  FLASHINFER_AVX2 static void store(float* p, const F& a) { _mm256_storeu_ps(p, a.v); }
  FLASHINFER_AVX2 static void store(f16* p, const F& a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  FLASHINFER_AVX2 static void store(bf16* p, const F& a) {
    const __m256i word = _mm256_castps_si256(a.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(word, odd), _mm256_set1_epi32(0x7fff)), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_slli_epi32(_mm256_srli_epi32(word, 31), 15), _mm256_set1_epi32(0x7fc0));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), pack_words(_mm256_blendv_epi8(rounded, quiet, is_nan)));
  }
  FLASHINFER_AVX2 static void store(e4m3* p, const F& a) { store_fp8<3, 7, 0x7e>(p, a); }
  FLASHINFER_AVX2 static void store(e5m2* p, const F& a) { store_fp8<2, 15, 0x7b>(p, a); }
  template <class T>
  FLASHINFER_AVX2 static void store(T* p, const F& a, int count) {
    T padded[kLanes];
    store(padded, a);
    std::memcpy(p, padded, size_t(count) * sizeof(T));
  }

 private:
  /// The low 16 bits of eight 32-bit lanes, which must fit.
  FLASHINFER_AVX2 static __m128i pack_words(__m256i words) {
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
  /// Round to nearest even in integers; subnormal results by adding the power of two whose ulp is theirs. Saturates.
  template <int kMantissaBits, int kBias, int kLargest, class T>
  FLASHINFER_AVX2 static void store_fp8(T* p, const F& a) {
    constexpr int kDrop = 23 - kMantissaBits;
    const __m256i word = _mm256_castps_si256(a.v);
    const __m256i magnitude = _mm256_and_si256(word, _mm256_set1_epi32(0x7fffffff));
    const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(word, 24), _mm256_set1_epi32(0x80));
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(magnitude, kDrop), _mm256_set1_epi32(1));
    const __m256i rebias = _mm256_set1_epi32((1 << (kDrop - 1)) - 1 - ((127 - kBias) << 23));
    const __m256i normal = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(magnitude, odd), rebias), kDrop);
    const __m256i magic = _mm256_set1_epi32((127 + 1 - kBias - kMantissaBits + 23) << 23);
    const __m256i tiny =
        _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(magnitude), _mm256_castsi256_ps(magic))), magic);
    const __m256i is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32((127 + 1 - kBias) << 23), magnitude);
    const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    __m256i bits = _mm256_min_epi32(_mm256_blendv_epi8(normal, tiny, is_tiny), _mm256_set1_epi32(kLargest));
    bits = _mm256_blendv_epi8(bits, _mm256_set1_epi32(kMantissaBits == 3 ? 0x7f : 0x7e), is_nan);
    const __m128i packed = pack_words(_mm256_or_si256(bits, sign));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(packed, packed));
  }
};

}  // namespace flashinfer::cpu

#endif  // __x86_64__
