// Emulated gpu/ptx/convert.cuh, by the conversions of core/number.hpp.
#pragma once

#include <flashinfer/core/number.hpp>

#include <cpp_tests/gpu/emulation/emulator.hpp>

namespace flashinfer::gpu::ptx {

struct FloatPair {
  float x, y;
};
inline FloatPair float_from_f16x2(uint32_t pair) { return {to_float(f16{uint16_t(pair)}), to_float(f16{uint16_t(pair >> 16)})}; }
inline FloatPair float_from_bf16x2(uint32_t pair) { return {to_float(bf16{uint16_t(pair)}), to_float(bf16{uint16_t(pair >> 16)})}; }
inline uint32_t f16x2_from_float(float x, float y) { return from_float<f16>(x).bits | uint32_t(from_float<f16>(y).bits) << 16; }
inline uint32_t bf16x2_from_float(float x, float y) { return from_float<bf16>(x).bits | uint32_t(from_float<bf16>(y).bits) << 16; }
inline uint32_t f16x2_from_e4m3x2(uint16_t pair) {
  return f16x2_from_float(to_float(e4m3{uint8_t(pair)}), to_float(e4m3{uint8_t(pair >> 8)}));
}
inline uint32_t f16x2_from_e5m2x2(uint16_t pair) {
  return f16x2_from_float(to_float(e5m2{uint8_t(pair)}), to_float(e5m2{uint8_t(pair >> 8)}));
}
inline uint16_t e4m3x2_from_float(float x, float y) { return uint16_t(from_float<e4m3>(x).bits | from_float<e4m3>(y).bits << 8); }
inline uint16_t e5m2x2_from_float(float x, float y) { return uint16_t(from_float<e5m2>(x).bits | from_float<e5m2>(y).bits << 8); }

}  // namespace flashinfer::gpu::ptx
