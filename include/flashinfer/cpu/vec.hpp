// Host only. Functions of float vectors, written once for every ISA of cpu/isa.hpp. Isa::F is the vector; relative errors are
// against exact results, measured over the whole range by cpp_tests/cpu/test_vec.cpp.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/cpu/isa.hpp>

namespace flashinfer::cpu {

/// f(i) for every whole vector of n elements, then f(i, count) for the rest: for Isa::load(p + i, count...).
template <class Isa, class F>
FLASHINFER_INLINE inline void for_each_vec(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + Isa::kLanes <= n; i += Isa::kLanes) f(i);
  if (i < n) f(i, int(n - i));
}

/// The same as f(chain, i) and f(0, i, count), with kChains chains in turn: results that wait for the one before, as maxima do for four
/// cycles, wait less in several chains.
template <class Isa, int kChains, class F>
FLASHINFER_INLINE inline void for_each_vec_in_chains(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kChains * Isa::kLanes <= n; i += kChains * Isa::kLanes)
    for (int chain = 0; chain < kChains; ++chain) f(chain, i + chain * Isa::kLanes);
  for_each_vec<Isa>(n - i, [&](int64_t j, auto... count) FLASHINFER_INLINE { f(0, i + j, count...); });
}

namespace detail {
/// c[0] x^n + ... + c[n].
template <class Isa, int kCount>
FLASHINFER_INLINE inline typename Isa::F polynomial(const typename Isa::F& x, const float (&c)[kCount]) {
  typename Isa::F y = Isa::set(c[0]);
  for (int i = 1; i < kCount; ++i) y = Isa::fma(y, x, Isa::set(c[i]));
  return y;
}
}  // namespace detail

/// 2^x within 2 ulp; exp2(-inf) is 0, NaN stays NaN.
template <class Isa>
FLASHINFER_INLINE inline typename Isa::F exp2(const typename Isa::F& x) {
  // Outside the clamp the result is 0 or infinity, and inside it n fits scale_by_power_of_two.
  const typename Isa::F a = Isa::min(Isa::set(140.0f), Isa::max(Isa::set(-200.0f), x));
  const typename Isa::F n = Isa::round(a);
  constexpr float kMinimax[] = {1.54614447e-4f, 1.340042818e-3f, 9.618056679e-3f, 5.550327227e-2f, 0.2402265092f, 0.6931472067f, 1.0f};
  return Isa::scale_by_power_of_two(detail::polynomial<Isa>(a - n, kMinimax), n);
}

/// e^x within 2 ulp; exp(-inf) is 0, NaN stays NaN.
template <class Isa>
FLASHINFER_INLINE inline typename Isa::F exp(const typename Isa::F& x) {
  const typename Isa::F a = Isa::min(Isa::set(97.0f), Isa::max(Isa::set(-130.0f), x));
  const typename Isa::F n = Isa::round(a * Isa::set(kLog2e));
  // r = a - n ln2 with ln2 in two parts, the first with few enough bits that n times it is exact.
  const typename Isa::F r = Isa::fma(n, Isa::set(-1.42860682e-6f), Isa::fma(n, Isa::set(-0.693145752f), a));
  constexpr float kMinimax[] = {1.394110843e-3f, 8.375126398e-3f, 4.16663529e-2f, 0.1666641551f, 0.5000000047f, 1.000000038f, 1.0f};
  return Isa::scale_by_power_of_two(detail::polynomial<Isa>(r, kMinimax), n);
}

/// 1 / (1 + e^-x).
template <class Isa>
FLASHINFER_INLINE inline typename Isa::F sigmoid(const typename Isa::F& x) {
  return Isa::set(1.0f) / (Isa::set(1.0f) + exp<Isa>(Isa::set(0.0f) - x));
}

/// tanh(x), relative error below 1e-6 from |x| = 0.1 up and absolute error below 1e-7 under it.
template <class Isa>
FLASHINFER_INLINE inline typename Isa::F tanh(const typename Isa::F& x) {
  return Isa::fma(Isa::set(2.0f), sigmoid<Isa>(x + x), Isa::set(-1.0f));
}

/// The normal distribution function, Phi(x) = erfc(-x / sqrt(2)) / 2: gelu(x) is x * normal_cdf(x). Relative error below 1e-5
/// down to its smallest normal results.
template <class Isa>
FLASHINFER_INLINE inline typename Isa::F normal_cdf(const typename Isa::F& x) {
  // erfc(z) = t exp(-z^2 + p(t)) for z >= 0, t = 1 / (1 + z / 2); p fitted on z in [0, 11].
  const typename Isa::F z = Isa::abs(x) * Isa::set(0.70710678f);
  const typename Isa::F t = Isa::set(1.0f) / Isa::fma(z, Isa::set(0.5f), Isa::set(1.0f));
  constexpr float kMinimax[] = {0.1522794838f,   -0.7204177114f, 1.248708987f,  -0.8168191284f, 0.01766405861f,
                                -0.04968026769f, 0.05150814697f, 0.3832025478f, 0.9990203459f,  -1.26546641f};
  const typename Isa::F exponent = Isa::fma(x * Isa::set(-0.5f), x, detail::polynomial<Isa>(t, kMinimax));
  const typename Isa::F tail = Isa::set(0.5f) * t * exp<Isa>(exponent);
  return Isa::select(Isa::less(x, Isa::set(0.0f)), tail, Isa::set(1.0f) - tail);
}

}  // namespace flashinfer::cpu
