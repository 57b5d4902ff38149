// The matrix instruction of Ampere and all that followed: c[16x8] += a[16x16] * b[16x8], 16-bit elements, float sums.
// Turing does the f16 one in two halves.
#pragma once

#include <flashinfer/core/number.hpp>
#include <flashinfer/gpu/ptx/mma_sm75.cuh>

namespace flashinfer::gpu::ptx {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
inline constexpr bool kHasBf16Mma = false;
#else
inline constexpr bool kHasBf16Mma = true;
#endif

/// Fragments: a0 a1 rows lane / 4 and + 8 of columns 2 * (lane % 4) and the next, a2 a3 the same rows 8 columns on;
/// b0 b1 column lane / 4 of those rows; c0 c1 row lane / 4, c2 c3 row lane / 4 + 8, columns 2 * (lane % 4) and the next.
template <class T>
FLASHINFER_DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(is_same_v<T, f16> || (is_same_v<T, bf16> && kHasBf16Mma), "Turing has no bf16 mma: convert to f16");
#if __CUDA_ARCH__ >= 800
  if constexpr (is_same_v<T, bf16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#else
  mma_m16n8k8_f16(c, a[0], a[1], b0);
  mma_m16n8k8_f16(c, a[2], a[3], b1);
#endif
}

}  // namespace flashinfer::gpu::ptx
