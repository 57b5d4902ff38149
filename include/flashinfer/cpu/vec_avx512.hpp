// Host only. Sixteen floats of AVX-512. Every member has the target attribute; see cpu/isa.hpp for how kernels reach it, and
// cpu/vec_baseline.hpp for what each operation means.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <flashinfer/core/number.hpp>

#define FLASHINFER_AVX512 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")))
#define FLASHINFER_AVX512_BF16 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own _mm512_undefined
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace flashinfer::cpu {

struct Avx512 {
  static constexpr int kLanes = 16;

  struct F {
    __m512 v;
    F() = default;
    // Not trivial: F then travels by reference in every call that is not inlined, whatever the caller's target is.
    F(const F& other) : v(other.v) {}
    F& operator=(const F& other) {
      v = other.v;
      return *this;
    }
    FLASHINFER_AVX512 explicit F(__m512 value) : v(value) {}

    FLASHINFER_AVX512 friend F operator+(const F& a, const F& b) { return F(_mm512_add_ps(a.v, b.v)); }
    FLASHINFER_AVX512 friend F operator-(const F& a, const F& b) { return F(_mm512_sub_ps(a.v, b.v)); }
    FLASHINFER_AVX512 friend F operator*(const F& a, const F& b) { return F(_mm512_mul_ps(a.v, b.v)); }
    FLASHINFER_AVX512 friend F operator/(const F& a, const F& b) { return F(_mm512_div_ps(a.v, b.v)); }
  };
  using M = __mmask16;

  FLASHINFER_AVX512 static F set(float x) { return F(_mm512_set1_ps(x)); }
  FLASHINFER_AVX512 static F iota() { return F(_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)); }
  FLASHINFER_AVX512 static F fma(const F& a, const F& b, const F& c) { return F(_mm512_fmadd_ps(a.v, b.v, c.v)); }
  FLASHINFER_AVX512 static F max(const F& a, const F& b) { return F(_mm512_max_ps(a.v, b.v)); }
  FLASHINFER_AVX512 static F min(const F& a, const F& b) { return F(_mm512_min_ps(a.v, b.v)); }
  FLASHINFER_AVX512 static F abs(const F& a) { return F(_mm512_abs_ps(a.v)); }
  FLASHINFER_AVX512 static F sqrt(const F& a) { return F(_mm512_sqrt_ps(a.v)); }
  FLASHINFER_AVX512 static F round(const F& a) { return F(_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
  FLASHINFER_AVX512 static F scale_by_power_of_two(const F& a, const F& n) { return F(_mm512_scalef_ps(a.v, n.v)); }

  FLASHINFER_AVX512 static M less(const F& a, const F& b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
  FLASHINFER_AVX512 static uint32_t bits(const M& m) { return m; }
  FLASHINFER_AVX512 static M first(int count) { return M(count >= 16 ? 0xffff : (1u << count) - 1); }
  FLASHINFER_AVX512 static F select(const M& m, const F& yes, const F& no) { return F(_mm512_mask_blend_ps(m, no.v, yes.v)); }

  FLASHINFER_AVX512 static float sum(const F& a) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  FLASHINFER_AVX512 static float max_of(const F& a) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }

  FLASHINFER_AVX512 static void transpose(F (&x)[kLanes]) {
    __m512 pair[16], quad[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) pair[i] = _mm512_unpacklo_ps(x[i].v, x[i + 1].v), pair[i + 1] = _mm512_unpackhi_ps(x[i].v, x[i + 1].v);
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      quad[i] = _mm512_shuffle_ps(pair[i], pair[i + 2], 0x44), quad[i + 1] = _mm512_shuffle_ps(pair[i], pair[i + 2], 0xee);
      quad[i + 2] = _mm512_shuffle_ps(pair[i + 1], pair[i + 3], 0x44), quad[i + 3] = _mm512_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    // quad[4b + i] holds column i of every 4x4 block of rows 4b to 4b + 3; what is left is a transpose of 4x4 blocks.
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512 a = _mm512_shuffle_f32x4(quad[i], quad[i + 4], 0x88), b = _mm512_shuffle_f32x4(quad[i], quad[i + 4], 0xdd);
      const __m512 c = _mm512_shuffle_f32x4(quad[i + 8], quad[i + 12], 0x88), d = _mm512_shuffle_f32x4(quad[i + 8], quad[i + 12], 0xdd);
      x[i].v = _mm512_shuffle_f32x4(a, c, 0x88), x[i + 8].v = _mm512_shuffle_f32x4(a, c, 0xdd);
      x[i + 4].v = _mm512_shuffle_f32x4(b, d, 0x88), x[i + 12].v = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
  }

  FLASHINFER_AVX512 static F load(const float* p) { return F(_mm512_loadu_ps(p)); }
  FLASHINFER_AVX512 static F load(const f16* p) { return widen_f16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  FLASHINFER_AVX512 static F load(const bf16* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  FLASHINFER_AVX512 static F load(const e4m3* p) { return widen_e4m3(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  FLASHINFER_AVX512 static F load(const e5m2* p) { return widen_e5m2(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  FLASHINFER_AVX512 static F load(const float* p, int count) { return F(_mm512_maskz_loadu_ps(first(count), p)); }
  FLASHINFER_AVX512 static F load(const f16* p, int count) { return widen_f16(_mm256_maskz_loadu_epi16(first(count), p)); }
  FLASHINFER_AVX512 static F load(const bf16* p, int count) { return widen_bf16(_mm256_maskz_loadu_epi16(first(count), p)); }
  FLASHINFER_AVX512 static F load(const e4m3* p, int count) { return widen_e4m3(_mm_maskz_loadu_epi8(first(count), p)); }
  FLASHINFER_AVX512 static F load(const e5m2* p, int count) { return widen_e5m2(_mm_maskz_loadu_epi8(first(count), p)); }

  FLASHINFER_AVX512 static void store(float* p, const F& a) { _mm512_storeu_ps(p, a.v); }
  FLASHINFER_AVX512 static void store(f16* p, const F& a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_f16(a)); }
  FLASHINFER_AVX512 static void store(bf16* p, const F& a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(a)); }
  FLASHINFER_AVX512 static void store(e4m3* p, const F& a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_fp8<3, 7, 0x7e>(a)); }
  FLASHINFER_AVX512 static void store(e5m2* p, const F& a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_fp8<2, 15, 0x7b>(a)); }
  FLASHINFER_AVX512 static void store(float* p, const F& a, int count) { _mm512_mask_storeu_ps(p, first(count), a.v); }
  FLASHINFER_AVX512 static void store(f16* p, const F& a, int count) { _mm256_mask_storeu_epi16(p, first(count), narrow_f16(a)); }
  FLASHINFER_AVX512 static void store(bf16* p, const F& a, int count) { _mm256_mask_storeu_epi16(p, first(count), narrow_bf16(a)); }
  FLASHINFER_AVX512 static void store(e4m3* p, const F& a, int count) { _mm_mask_storeu_epi8(p, first(count), narrow_fp8<3, 7, 0x7e>(a)); }
  FLASHINFER_AVX512 static void store(e5m2* p, const F& a, int count) { _mm_mask_storeu_epi8(p, first(count), narrow_fp8<2, 15, 0x7b>(a)); }

 private:
  FLASHINFER_AVX512 static F widen_f16(__m256i bits) { return F(_mm512_cvtph_ps(bits)); }
  FLASHINFER_AVX512 static F widen_bf16(__m256i bits) { return F(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))); }
  FLASHINFER_AVX512 static F widen_e5m2(__m128i bits) { return F(_mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(bits), 8))); }
  /// As f16 with the exponent in its low bits, then times 2^8 for the difference of the biases. F16C reads subnormals
  /// whatever the flush-to-zero mode is.
  FLASHINFER_AVX512 static F widen_e4m3(__m128i bits) {
    const __m256i wide = _mm256_cvtepu8_epi16(bits);
    const __m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi16(0x7f));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
    const __m256i half = _mm256_or_si256(_mm256_slli_epi16(magnitude, 7), sign);
    const __m512 value = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
    const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
    return F(_mm512_mask_mov_ps(value, nan, _mm512_set1_ps(__builtin_nanf(""))));
  }

  FLASHINFER_AVX512 static __m256i narrow_f16(const F& a) { return _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  FLASHINFER_AVX512 static __m256i narrow_bf16(const F& a) {
    const __m512i word = _mm512_castps_si512(a.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(word, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(word, odd), _mm512_set1_epi32(0x7fff)), 16);
    const __m512i quiet =
        _mm512_or_si512(_mm512_srli_epi32(_mm512_and_si512(word, _mm512_set1_epi32(int(0x80000000u))), 16), _mm512_set1_epi32(0x7fc0));
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), quiet));
  }
  /// Round to nearest even in integers; subnormal results by adding the power of two whose ulp is theirs. Saturates.
  template <int kMantissaBits, int kBias, int kLargest>
  FLASHINFER_AVX512 static __m128i narrow_fp8(const F& a) {
    constexpr int kDrop = 23 - kMantissaBits;
    const __m512i word = _mm512_castps_si512(a.v);
    const __m512i magnitude = _mm512_and_si512(word, _mm512_set1_epi32(0x7fffffff));
    const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(word, 24), _mm512_set1_epi32(0x80));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(magnitude, kDrop), _mm512_set1_epi32(1));
    const __m512i rebias = _mm512_set1_epi32((1 << (kDrop - 1)) - 1 - ((127 - kBias) << 23));
    const __m512i normal = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(magnitude, odd), rebias), kDrop);
    const __m512i magic = _mm512_set1_epi32((127 + 1 - kBias - kMantissaBits + 23) << 23);
    const __m512i tiny =
        _mm512_sub_epi32(_mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(magnitude), _mm512_castsi512_ps(magic))), magic);
    const __mmask16 is_tiny = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32((127 + 1 - kBias) << 23));
    const __mmask16 is_nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
    __m512i bits = _mm512_min_epi32(_mm512_mask_mov_epi32(normal, is_tiny, tiny), _mm512_set1_epi32(kLargest));
    bits = _mm512_mask_mov_epi32(bits, is_nan, _mm512_set1_epi32(kMantissaBits == 3 ? 0x7f : 0x7e));
    return _mm512_cvtepi32_epi8(_mm512_or_si512(bits, sign));
  }
};

/// bf16 bits of the e4m3 numbers without sign.
struct E4m3AsBf16 {
  uint16_t bits[128];
  constexpr E4m3AsBf16() : bits() {
    for (int i = 0; i < 128; ++i) bits[i] = from_float<bf16>(to_float(e4m3{uint8_t(i)})).bits;
  }
};
inline constexpr E4m3AsBf16 kE4m3AsBf16;

/// Adds the product of bf16 pairs: one instruction for 32 products. It flushes subnormals and rounds to nearest even.
struct Avx512Bf16 : Avx512 {
  /// Lane i of the result: acc[i] + a[2i] b[2i] + a[2i+1] b[2i+1], for 32 elements at a and at b.
  FLASHINFER_AVX512_BF16 static F dot_bf16(const F& acc, const bf16* a, const bf16* b) {
    return F(_mm512_dpbf16_ps(acc.v, (__m512bh)_mm512_loadu_si512(a), (__m512bh)_mm512_loadu_si512(b)));
  }

  // Lanes of "pairs" are two bf16 each, the one of the lower index in the lower half.
  FLASHINFER_AVX512_BF16 static F dot_pairs(const F& acc, const F& a, const F& b) {
    return F(_mm512_dpbf16_ps(acc.v, (__m512bh)_mm512_castps_si512(a.v), (__m512bh)_mm512_castps_si512(b.v)));
  }
  /// 32 neighbouring elements; `count` of them, zeros behind. bf16 holds every FP8 number.
  FLASHINFER_AVX512_BF16 static F load_pairs(const bf16* p) { return F(_mm512_loadu_ps(p)); }
  FLASHINFER_AVX512_BF16 static F load_pairs(const bf16* p, int count) {
    return F(_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << count) - 1), p)));
  }
  FLASHINFER_AVX512_BF16 static F load_pairs(const e5m2* p) {
    return F(_mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(load(p + 16).v, load(p).v)));
  }
  /// bf16 by table: its 128 magnitudes fill four registers, which takes half the instructions of arithmetic.
  FLASHINFER_AVX512_BF16 static F load_pairs(const e4m3* p) {
    const __m512i wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    const uint16_t* table = kE4m3AsBf16.bits;
    const __m512i small = _mm512_permutex2var_epi16(_mm512_loadu_si512(table), wide, _mm512_loadu_si512(table + 32));
    const __m512i large = _mm512_permutex2var_epi16(_mm512_loadu_si512(table + 64), wide, _mm512_loadu_si512(table + 96));
    const __m512i magnitude = _mm512_mask_mov_epi16(small, _mm512_test_epi16_mask(wide, _mm512_set1_epi16(0x40)), large);
    const __m512i sign = _mm512_slli_epi16(_mm512_srli_epi16(wide, 7), 15);
    return F(_mm512_castsi512_ps(_mm512_or_si512(magnitude, sign)));
  }
  template <class T>
  FLASHINFER_AVX512_BF16 static F load_pairs(const T* p, int count) {
    T padded[2 * kLanes] = {};
    __builtin_memcpy(padded, p, size_t(count) * sizeof(T));
    return load_pairs(padded);
  }
  /// Of 32 elements of a and of b in lanes of pairs: low = (a[0], b[0]) to (a[15], b[15]), high the rest.
  FLASHINFER_AVX512_BF16 static void zip(const F& a, const F& b, F& low, F& high) {
    const __m512i first = _mm512_set_epi32(0x2f000f, 0x2e000e, 0x2d000d, 0x2c000c, 0x2b000b, 0x2a000a, 0x290009, 0x280008, 0x270007,
                                           0x260006, 0x250005, 0x240004, 0x230003, 0x220002, 0x210001, 0x200000);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(0x100010));
    low = F(_mm512_castsi512_ps(_mm512_permutex2var_epi16(_mm512_castps_si512(a.v), first, _mm512_castps_si512(b.v))));
    high = F(_mm512_castsi512_ps(_mm512_permutex2var_epi16(_mm512_castps_si512(a.v), second, _mm512_castps_si512(b.v))));
  }
  /// Rounds to nearest even, subnormals to zero.
  FLASHINFER_AVX512_BF16 static void store_bf16(bf16* p, const F& a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a.v));
  }
};

}  // namespace flashinfer::cpu

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif  // __x86_64__
