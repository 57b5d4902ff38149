// The one order in which sampling and top-k take the elements of a row: larger values first, equal values by lower index.
// Every filter keeps a prefix of this order, so ties, zeros and NaN are decided here and nowhere else:
//   +0 and -0 are equal; infinities are ordinary values; NaN comes last, behind -inf, and is never kept.
#pragma once

#include <flashinfer/core/number.hpp>

namespace flashinfer {

/// Larger values have larger keys, equal values equal ones. 0 for NaN and for nothing else. 32 bits for float, 16 for f16 and bf16.
template <class T>
inline constexpr int kOrderKeyBits = 8 * int(sizeof(T));

FLASHINFER_HOST_DEVICE constexpr uint32_t order_key(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0;
  return bits >> 31 ? 0x80000000u - magnitude : 0x80000000u + magnitude;  // -inf is 0x00800000
}

namespace detail {
FLASHINFER_HOST_DEVICE constexpr uint32_t order_key_16(uint32_t bits, uint32_t infinity) {
  const uint32_t magnitude = bits & 0x7fffu;
  if (magnitude > infinity) return 0;
  return bits >> 15 ? 0x8000u - magnitude : 0x8000u + magnitude;
}
}  // namespace detail

FLASHINFER_HOST_DEVICE constexpr uint32_t order_key(f16 value) { return detail::order_key_16(value.bits, 0x7c00u); }
FLASHINFER_HOST_DEVICE constexpr uint32_t order_key(bf16 value) { return detail::order_key_16(value.bits, 0x7f80u); }

/// The value of a key that order_key<T> gave: -0 has become +0; a NaN's key gives NaN.
template <class T>
FLASHINFER_HOST_DEVICE constexpr T value_of_order_key(uint32_t key) {
  constexpr uint32_t kZero = 1u << (kOrderKeyBits<T> - 1), kNan = is_same_v<T, float> ? 0x7fc00000u : is_same_v<T, f16> ? 0x7e00u : 0x7fc0u;
  const uint32_t bits = key == 0 ? kNan : key >= kZero ? key - kZero : (kZero - key) | kZero;
  if constexpr (is_same_v<T, float>) {
    return bit_cast<float>(bits);
  } else {
    return T{uint16_t(bits)};
  }
}

/// Key and index in one number: the larger one comes first in the order.
FLASHINFER_HOST_DEVICE constexpr uint64_t order_rank(uint32_t key, uint32_t index) { return uint64_t(key) << 32 | uint32_t(~index); }
FLASHINFER_HOST_DEVICE constexpr uint32_t key_of_rank(uint64_t rank) { return uint32_t(rank >> 32); }
FLASHINFER_HOST_DEVICE constexpr uint32_t index_of_rank(uint64_t rank) { return ~uint32_t(rank); }

}  // namespace flashinfer
