// exp2, ln and exponentially distributed noise with the same bits under g++, clang, nvcc and NVRTC, in scalar and vector code:
// only additions, products and fused multiply-adds that are written out, nothing that a compiler may contract or reorder.
// Sampling needs that: the CPU and the GPU keep the same tokens and draw the same one.
#pragma once

#include <flashinfer/core/math.hpp>

#if defined(__CUDACC__)
#define FLASHINFER_PORTABLE FLASHINFER_HOST_DEVICE
#else
#define FLASHINFER_PORTABLE inline __attribute__((always_inline))  // into vector code, for its target
#endif

namespace flashinfer {

/// What the polynomials below are computed with: one float here, a vector of the CPU in cpu/portable_vec.hpp.
struct PortableScalar {
  using F = float;
  static FLASHINFER_HOST_DEVICE float set(float x) { return x; }
#if defined(__CUDACC__)
  static FLASHINFER_HOST_DEVICE float fma(float a, float b, float c) { return ::fmaf(a, b, c); }  // NVRTC has no __builtin_fmaf
#else
  static float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#endif
};

/// 2^f for |f| <= 1/2, relative error below 2e-7; exactly 1 at 0.
template <class V, class F = typename V::F>
FLASHINFER_PORTABLE F portable_exp2_polynomial(const F& f) {
  F y = V::fma(V::set(1.3264725e-3f), f, V::set(9.6715130e-3f));
  y = V::fma(y, f, V::set(5.5507336e-2f));
  y = V::fma(y, f, V::set(0.24022242f));
  y = V::fma(y, f, V::set(0.69314700f));
  return V::fma(y, f, V::set(1.0f));
}

/// ln(1 + t) for t in [-1/4, 1/2], relative error below 2e-7, down to the smallest t.
template <class V, class F = typename V::F>
FLASHINFER_PORTABLE F portable_ln1p_polynomial(const F& t) {
  F y = V::fma(V::set(5.4131936e-2f), t, V::set(-0.12067330f));
  y = V::fma(y, t, V::set(0.14983922f));
  y = V::fma(y, t, V::set(-0.16822818f));
  y = V::fma(y, t, V::set(0.19977078f));
  y = V::fma(y, t, V::set(-0.24993442f));
  y = V::fma(y, t, V::set(0.33333549f));
  y = V::fma(y, t, V::set(-0.50000060f));
  return V::fma(y * t, t, t);
}

/// 2^x for x <= 126, relative error below 2e-7. 0 from -125.5 down and for NaN. Without a comparison: a branch that skips the polynomial
/// costs kernels more than the polynomial.
FLASHINFER_HOST_DEVICE float portable_exp2(float x) {
  x = x > -126.0f ? x : -126.0f;
  const float shifted = x + 12582912.0f;  // 1.5 * 2^23: the sum is rounded to an integer n, halves to even, which lies in its low bits
  const float f = x - (shifted - 12582912.0f);
  const float scale = bit_cast<float>((bit_cast<uint32_t>(shifted) << 23) + 0x3f000000u);  // 2^(n - 1), and 0 where n is -126
  const float y = portable_exp2_polynomial<PortableScalar>(f);
  return (y + y) * scale;
}

/// ln(x) for positive normal x, relative error below 3e-7.
FLASHINFER_HOST_DEVICE float portable_ln(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const int32_t exponent = int32_t(bits - 0x3f400000u) >> 23;  // x = m * 2^exponent, m in [3/4, 3/2)
  const float m = bit_cast<float>(bits - (uint32_t(exponent) << 23));
  return PortableScalar::fma(float(exponent), kLn2, portable_ln1p_polynomial<PortableScalar>(m - 1.0f));
}

/// -ln(1 - u) for u = (bits + 1/2) / 2^32: a draw from the exponential distribution of mean 1, from 2^-33 to 33 ln 2, with a
/// relative error below 3e-7. Small draws, which win races, keep all 32 random bits. Never less than u but for rounding.
FLASHINFER_HOST_DEVICE float exponential_noise(uint32_t bits) {
  constexpr float kUnit = 2.3283064365386963e-10f, kHalf = 1.1641532182693481e-10f;  // 2^-32, 2^-33
  if (bits < 0x40000000u) return -portable_ln1p_polynomial<PortableScalar>(-PortableScalar::fma(float(bits), kUnit, kHalf));
  return -portable_ln(PortableScalar::fma(float(~bits), kUnit, kHalf));
}

}  // namespace flashinfer
