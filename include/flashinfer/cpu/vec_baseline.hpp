// Host only. Four floats with no more than the compiler's default target has (SSE2, NEON), through GCC's and clang's vector
// types. Also the reference for what the other ISAs' operations mean: same names, only wider and faster.
#pragma once

#include <cmath>
#include <cstring>

#include <flashinfer/core/number.hpp>

namespace flashinfer::cpu {

struct Baseline {
  static constexpr int kLanes = 4;

  typedef float Floats __attribute__((vector_size(16)));
  typedef int32_t Words __attribute__((vector_size(16)));
  typedef uint16_t HalfWords __attribute__((vector_size(8)));

  /// A vector of floats.
  struct F {
    Floats v;
    F() = default;
    explicit F(Floats value) : v(value) {}

    friend F operator+(const F& a, const F& b) { return F(a.v + b.v); }
    friend F operator-(const F& a, const F& b) { return F(a.v - b.v); }
    friend F operator*(const F& a, const F& b) { return F(a.v * b.v); }
    friend F operator/(const F& a, const F& b) { return F(a.v / b.v); }
  };
  /// A truth value per lane.
  struct M {
    Words v;
  };

  static F set(float x) { return F(Floats{x, x, x, x}); }
  static F iota() { return F(Floats{0, 1, 2, 3}); }
  /// a * b + c; one rounding where the ISA has FMA, two here.
  static F fma(const F& a, const F& b, const F& c) { return F(a.v * b.v + c.v); }
  /// b where a or b is NaN: max(constant, x) keeps the NaN of x.
  static F max(const F& a, const F& b) { return select(less(b, a), a, b); }
  static F min(const F& a, const F& b) { return select(less(a, b), a, b); }
  static F abs(const F& a) { return F(Floats(Words(a.v) & 0x7fffffff)); }
  static F sqrt(const F& a) { return F(Floats{std::sqrt(a.v[0]), std::sqrt(a.v[1]), std::sqrt(a.v[2]), std::sqrt(a.v[3])}); }
  /// To the nearest integer, halves to even; exact for |a| < 2^22, which is all that exp asks for.
  static F round(const F& a) {
    volatile float magic = 12582912.0f;  // 1.5 * 2^23: volatile, or -ffast-math users get a no-op
    return a + set(magic) - set(magic);
  }
  /// a * 2^n for integers n in [-252, 254].
  static F scale_by_power_of_two(const F& a, const F& n) {
    const Words exponent = __builtin_convertvector(n.v, Words), half = exponent >> 1;
    return F(a.v * Floats((half + 127) << 23) * Floats((exponent - half + 127) << 23));
  }

  static M less(const F& a, const F& b) { return {Words(a.v < b.v)}; }
  /// Bit i: lane i.
  static uint32_t bits(const M& m) { return uint32_t((m.v[0] & 1) | (m.v[1] & 2) | (m.v[2] & 4) | (m.v[3] & 8)); }
  /// Lanes 0 to count - 1.
  static M first(int count) { return less(iota(), set(float(count))); }
  static F select(const M& m, const F& yes, const F& no) { return F(Floats((m.v & Words(yes.v)) | (~m.v & Words(no.v)))); }

  /// Sum and maximum over the lanes, in a fixed order.
  static float sum(const F& a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
  static float max_of(const F& a) {
    const float x = a.v[0] < a.v[2] ? a.v[2] : a.v[0], y = a.v[1] < a.v[3] ? a.v[3] : a.v[1];
    return x < y ? y : x;
  }

  /// Lane j of x[i] becomes lane i of x[j]. Moves bits: the lanes need not be floats.
  static void transpose(F (&x)[kLanes]) {
    const Floats a = __builtin_shufflevector(x[0].v, x[1].v, 0, 4, 1, 5), b = __builtin_shufflevector(x[2].v, x[3].v, 0, 4, 1, 5);
    const Floats c = __builtin_shufflevector(x[0].v, x[1].v, 2, 6, 3, 7), d = __builtin_shufflevector(x[2].v, x[3].v, 2, 6, 3, 7);
    x[0].v = __builtin_shufflevector(a, b, 0, 1, 4, 5), x[1].v = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    x[2].v = __builtin_shufflevector(c, d, 0, 1, 4, 5), x[3].v = __builtin_shufflevector(c, d, 2, 3, 6, 7);
  }

  /// kLanes elements of memory, unaligned, as floats.
  template <class T>
  static F load(const T* p) {
    F a;
    if constexpr (is_same_v<T, float>) {
      std::memcpy(&a.v, p, sizeof(a.v));
    } else if constexpr (is_same_v<T, bf16>) {
      HalfWords bits;
      std::memcpy(&bits, p, sizeof(bits));
      a.v = Floats(__builtin_convertvector(bits, Words) << 16);
    } else {
      for (int i = 0; i < kLanes; ++i) a.v[i] = to_float(p[i]);
    }
    return a;
  }
  /// The first `count` elements (at least one), zeros behind them; reads no byte more.
  template <class T>
  static F load(const T* p, int count) {
    T padded[kLanes] = {};
    std::memcpy(padded, p, size_t(count) * sizeof(T));
    return load(padded);
  }
  /// Rounds to nearest even; FP8 saturates.
  template <class T>
  static void store(T* p, const F& a) {
    if constexpr (is_same_v<T, float>) {
      std::memcpy(p, &a.v, sizeof(a.v));
    } else if constexpr (is_same_v<T, bf16>) {
      const Words word = Words(a.v), high = word >> 16 & 0xffff;
      const Words up = (word & 0xffff) + 0x7fff + (high & 1);  // carries into bit 16 where the half is to be rounded up
      const Words is_nan = Words(a.v != a.v);
      const HalfWords bits = __builtin_convertvector(((high + (up >> 16)) & ~is_nan) | (((high & 0x8000) | 0x7fc0) & is_nan), HalfWords);
      std::memcpy(p, &bits, sizeof(bits));
    } else {
      for (int i = 0; i < kLanes; ++i) p[i] = from_float<T>(a.v[i]);
    }
  }
  template <class T>
  static void store(T* p, const F& a, int count) {
    T padded[kLanes];
    store(padded, a);
    std::memcpy(p, padded, size_t(count) * sizeof(T));
  }
};

}  // namespace flashinfer::cpu
