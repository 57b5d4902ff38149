// Conversions between pairs of float and pairs of narrow elements, the way the hardware does them. The first element is
// in the low bits. Written as PTX so that a kernel needs no CUDA header: cuda_fp8.h would add 23 ms to the 92 ms (CPU, NVRTC 13.0)
// that RMSNorm's kernel takes to compile, and on older architectures converts in software through double.
#pragma once

#include <flashinfer/core/number.hpp>

namespace flashinfer::gpu::ptx {

struct FloatPair {
  float x, y;
};

FLASHINFER_DEVICE FloatPair float_from_f16x2(uint32_t pair) {
  FloatPair f;
  asm("{.reg .f16 lo, hi;\n mov.b32 {lo, hi}, %2;\n cvt.f32.f16 %0, lo;\n cvt.f32.f16 %1, hi;}" : "=f"(f.x), "=f"(f.y) : "r"(pair));
  return f;
}
FLASHINFER_DEVICE FloatPair float_from_bf16x2(uint32_t pair) { return {bit_cast<float>(pair << 16), bit_cast<float>(pair & 0xffff0000u)}; }

FLASHINFER_DEVICE uint32_t f16x2_from_float(float x, float y) {
  uint32_t pair;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(pair) : "f"(x), "f"(y));
#else
  asm("{.reg .f16 lo, hi;\n cvt.rn.f16.f32 lo, %1;\n cvt.rn.f16.f32 hi, %2;\n mov.b32 %0, {lo, hi};}" : "=r"(pair) : "f"(x), "f"(y));
#endif
  return pair;
}
FLASHINFER_DEVICE uint32_t bf16x2_from_float(float x, float y) {
#if __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(pair) : "f"(x), "f"(y));
  return pair;
#else
  auto narrow = [](float f) {
    const uint32_t word = bit_cast<uint32_t>(f);
    return f != f ? 0x7fffu : (word + 0x7fffu + ((word >> 16) & 1)) >> 16;
  };
  return narrow(x) | narrow(y) << 16;
#endif
}

/// Two e4m3 to two f16, exactly: every e4m3 is an f16.
FLASHINFER_DEVICE uint32_t f16x2_from_e4m3x2(uint16_t pair) {
  uint32_t wide;
#if __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(wide) : "h"(pair));
#else
  // Exponent and mantissa one bit right of where f16 has them, then times 2^8 for the biases 15 - 7; the product also
  // normalises subnormals. NaN (0x7f) would become 480: the two compares restore it.
  const uint32_t spread = __byte_perm(pair, 0, 0x1404);  // each element in the high byte of its half word
  const uint32_t magnitude = (spread >> 1) & 0x3f803f80u;
  asm("mul.f16x2 %0, %1, %2;" : "=r"(wide) : "r"(magnitude), "r"(0x5c005c00u));
  if ((spread & 0x00007f00u) == 0x00007f00u) wide |= 0x00007fffu;
  if ((spread & 0x7f000000u) == 0x7f000000u) wide |= 0x7fff0000u;
  wide |= spread & 0x80008000u;
#endif
  return wide;
}
/// Two e5m2 to two f16, exactly: e5m2 is the high byte of an f16.
FLASHINFER_DEVICE uint32_t f16x2_from_e5m2x2(uint16_t pair) { return __byte_perm(pair, 0, 0x1404); }

/// Rounds to nearest even, saturates to the largest finite value; NaN stays NaN.
FLASHINFER_DEVICE uint16_t e4m3x2_from_float(float x, float y) {
#if __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(pair) : "f"(x), "f"(y));
  return pair;
#else
  return uint16_t(from_float<e4m3>(x).bits | from_float<e4m3>(y).bits << 8);
#endif
}
FLASHINFER_DEVICE uint16_t e5m2x2_from_float(float x, float y) {
#if __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %2, %1;" : "=h"(pair) : "f"(x), "f"(y));
  return pair;
#else
  return uint16_t(from_float<e5m2>(x).bits | from_float<e5m2>(y).bits << 8);
#endif
}

}  // namespace flashinfer::gpu::ptx
