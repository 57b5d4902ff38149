// Integer and constant arithmetic that every layer shares.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer {

inline constexpr float kLog2e = 1.44269504088896340736f;
inline constexpr float kLn2 = 0.69314718055994530942f;
inline constexpr float kInfinity = bit_cast<float>(0x7f800000u);  // NVRTC has no __builtin_huge_valf

template <class T>
FLASHINFER_HOST_DEVICE constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}
template <class T>
FLASHINFER_HOST_DEVICE constexpr T round_up(T a, T b) {
  return ceil_div(a, b) * b;
}
template <class T>
FLASHINFER_HOST_DEVICE constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
FLASHINFER_HOST_DEVICE constexpr T max(T a, T b) {
  return a < b ? b : a;
}
template <class T>
FLASHINFER_HOST_DEVICE constexpr T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}
FLASHINFER_HOST_DEVICE constexpr bool is_power_of_two(int64_t x) { return x > 0 && (x & (x - 1)) == 0; }

/// Division by a number that is known long before the dividend: one multiplication. Exact for 0 <= dividend * divisor < 2^32, and for
/// every dividend from 0 on if the divisor is a power of two.
struct Divisor {
  uint32_t divisor = 1, magic = 0;  // ceil(2^32 / divisor), which for 1 does not fit

  Divisor() = default;
  FLASHINFER_HOST_DEVICE constexpr explicit Divisor(int32_t by)
      : divisor(uint32_t(by)), magic(by <= 1 ? 0 : 0xffffffffu / uint32_t(by) + 1) {}
  FLASHINFER_HOST_DEVICE constexpr int32_t quotient(int32_t x) const {
    return magic == 0 ? x : int32_t(uint64_t(uint32_t(x)) * magic >> 32);
  }
};

}  // namespace flashinfer
