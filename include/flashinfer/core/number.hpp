// The bits of the narrow floating-point formats and their exact conversions, in plain C++ for every compiler.
// Hot loops do not call these: gpu/vec.cuh and cpu/vec.hpp convert whole vectors with the hardware's instructions,
// and are tested against this file.
#pragma once

#include <flashinfer/core/dtype.hpp>

namespace flashinfer {

struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};
struct e4m3 {
  uint8_t bits;
};
struct e5m2 {
  uint8_t bits;
};

namespace detail {

/// IEEE-like format of 1 sign, kExponentBits and kMantissaBits, to float: exact.
template <int kExponentBits, int kMantissaBits>
FLASHINFER_HOST_DEVICE constexpr float widen(uint32_t bits) {
  constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  const uint32_t sign = (bits >> (kExponentBits + kMantissaBits)) << 31;
  const uint32_t exponent = (bits >> kMantissaBits) & ((1u << kExponentBits) - 1);
  const uint32_t mantissa = bits & ((1u << kMantissaBits) - 1);
  if (exponent == (1u << kExponentBits) - 1) return bit_cast<float>(sign | 0x7f800000u | mantissa << (23 - kMantissaBits));
  if (exponent == 0) {  // subnormal: mantissa * 2^(1 - bias - mantissa bits), a product that float represents exactly
    const float magnitude = float(mantissa) * bit_cast<float>(uint32_t(127 + 1 - kBias - kMantissaBits) << 23);
    return sign ? -magnitude : magnitude;
  }
  return bit_cast<float>(sign | (exponent + 127 - kBias) << 23 | mantissa << (23 - kMantissaBits));
}

/// Float to the format, round to nearest even. Past the largest finite value: infinity, or that value if kSaturate.
template <int kExponentBits, int kMantissaBits, bool kSaturate, bool kHasInfinity = true>
FLASHINFER_HOST_DEVICE constexpr uint32_t narrow(float value) {
  constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  constexpr uint32_t kTopExponent = (1u << kExponentBits) - 1;
  constexpr uint32_t kInfinity = kTopExponent << kMantissaBits;
  // e4m3 has no infinity: its top exponent holds numbers, and all bits set is NaN.
  constexpr uint32_t kLargest = kHasInfinity ? kInfinity - 1 : (kInfinity | ((1u << kMantissaBits) - 2));
  constexpr uint32_t kNan = kHasInfinity ? (kInfinity | 1u << (kMantissaBits - 1)) : (kInfinity | ((1u << kMantissaBits) - 1));
  const uint32_t word = bit_cast<uint32_t>(value);
  const uint32_t sign = (word >> 31) << (kExponentBits + kMantissaBits);
  const uint32_t magnitude = word & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | kNan;
  uint32_t bits = 0;
  const int exponent = int(magnitude >> 23 ? magnitude >> 23 : 1) - 127 + kBias;  // a subnormal has the exponent of the smallest normal
  if (exponent >= 1) {
    const uint32_t rebiased = magnitude - (uint32_t(127 - kBias) << 23);
    constexpr int kDrop = 23 - kMantissaBits;
    bits = (rebiased + ((1u << (kDrop - 1)) - 1) + ((rebiased >> kDrop) & 1)) >> kDrop;
  } else {
    const int drop = 23 - kMantissaBits + 1 - exponent;
    if (drop <= 24 + 1) {
      const uint64_t significand = (magnitude & 0x7fffffu) | (magnitude >> 23 ? 0x800000u : 0u);
      const uint64_t half = uint64_t(1) << (drop - 1);
      bits = uint32_t((significand + (half - 1) + ((significand >> drop) & 1)) >> drop);
    }
  }
  if (bits > kLargest) bits = kSaturate ? kLargest : (kHasInfinity ? kInfinity : kNan);
  return sign | bits;
}

}  // namespace detail

FLASHINFER_HOST_DEVICE constexpr float to_float(float value) { return value; }
FLASHINFER_HOST_DEVICE constexpr float to_float(f16 value) { return detail::widen<5, 10>(value.bits); }
FLASHINFER_HOST_DEVICE constexpr float to_float(bf16 value) { return bit_cast<float>(uint32_t(value.bits) << 16); }
FLASHINFER_HOST_DEVICE constexpr float to_float(e5m2 value) { return detail::widen<5, 2>(value.bits); }
/// OCP e4m3 ("fn"): the top exponent is numbers up to 448, 0x7f is NaN, there is no infinity.
FLASHINFER_HOST_DEVICE constexpr float to_float(e4m3 value) {
  const uint32_t magnitude = value.bits & 0x7fu;
  const float sign = value.bits & 0x80u ? -1.0f : 1.0f;
  if (magnitude == 0x7fu) return bit_cast<float>(0x7fc00000u);
  if (magnitude < 8u) return sign * float(magnitude) * 0.001953125f;  // 2^-9
  return sign * bit_cast<float>((magnitude << 20) + (120u << 23));    // rebias 7 to 127
}

template <class T>
FLASHINFER_HOST_DEVICE constexpr T from_float(float value) {
  if constexpr (is_same_v<T, f16>) {
    return f16{uint16_t(detail::narrow<5, 10, false>(value))};
  } else if constexpr (is_same_v<T, bf16>) {
    return bf16{uint16_t(detail::narrow<8, 7, false>(value))};
  } else if constexpr (is_same_v<T, e4m3>) {
    return e4m3{uint8_t(detail::narrow<4, 3, true, false>(value))};
  } else if constexpr (is_same_v<T, e5m2>) {
    return e5m2{uint8_t(detail::narrow<5, 2, true>(value))};
  } else {
    return T(value);
  }
}

namespace detail {
template <DType kDType>
struct number;
template <>
struct number<DType::f32> {
  using type = float;
};
template <>
struct number<DType::f16> {
  using type = f16;
};
template <>
struct number<DType::bf16> {
  using type = bf16;
};
template <>
struct number<DType::e4m3> {
  using type = e4m3;
};
template <>
struct number<DType::e5m2> {
  using type = e5m2;
};
}  // namespace detail

/// The C++ type of an element: number_t<DType::bf16> is bf16.
template <DType kDType>
using number_t = typename detail::number<kDType>::type;

template <class T>
inline constexpr DType dtype_v = DType::f32;
template <>
inline constexpr DType dtype_v<f16> = DType::f16;
template <>
inline constexpr DType dtype_v<bf16> = DType::bf16;
template <>
inline constexpr DType dtype_v<e4m3> = DType::e4m3;
template <>
inline constexpr DType dtype_v<e5m2> = DType::e5m2;

/// Largest finite value: what a saturating conversion clamps to.
template <class T>
inline constexpr float largest_v = 3.402823466e38f;
template <>
inline constexpr float largest_v<f16> = 65504.0f;
template <>
inline constexpr float largest_v<bf16> = 3.389531389e38f;
template <>
inline constexpr float largest_v<e4m3> = 448.0f;
template <>
inline constexpr float largest_v<e5m2> = 57344.0f;

}  // namespace flashinfer
