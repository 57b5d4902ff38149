// Approximate scalar math: one MUFU instruction each, all accurate to about 2 ulp unless said otherwise.
// Every architecture from sm_75 on has them. Results below the smallest normal float are flushed to zero.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

/// 2^x; ex2(-inf) is 0.
FLASHINFER_DEVICE float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// log2(x); lg2(0) is -inf.
FLASHINFER_DEVICE float lg2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
FLASHINFER_DEVICE float rcp(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
FLASHINFER_DEVICE float rsqrt(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// Relative error up to 2^-11: enough for 16-bit results, not for float ones.
FLASHINFER_DEVICE float tanh(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// x * y, clamped to [0, 1]; of NaN 0. One instruction, exactly rounded. (PTX ISA, "mul")
FLASHINFER_DEVICE float multiply_saturate(float x, float y) {
  float z;
  asm("mul.rn.sat.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}
/// The larger one, NaN if one is. One instruction from Ampere on (PTX ISA, "max").
FLASHINFER_DEVICE float max_or_nan(float x, float y) {
#if __CUDA_ARCH__ >= 800
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(x), "f"(y));
  return larger;
#else
  return x != x || y != y ? x + y : fmaxf(x, y);
#endif
}

/// a * b in 64 bits, in one instruction. On the host too, where nvcc instantiates what kernels call.
struct MulWide {
  FLASHINFER_HOST_DEVICE uint64_t operator()(uint32_t a, uint32_t b) const {
#if defined(__CUDA_ARCH__)
    uint64_t product;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
    return product;
#else
    return uint64_t(a) * b;
#endif
  }
};

}  // namespace flashinfer::gpu::ptx
