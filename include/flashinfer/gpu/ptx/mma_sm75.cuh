// Turing's matrix instruction: c[16x8] += a[16x8] * b[8x8], f16 elements, float sums.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

/// Fragments: a0 row lane / 4, a1 row lane / 4 + 8, columns 2 * (lane % 4) and the next; b column lane / 4, the same rows;
/// c0 c1 row lane / 4, c2 c3 row lane / 4 + 8, columns as a.
FLASHINFER_DEVICE void mma_m16n8k8_f16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
}

}  // namespace flashinfer::gpu::ptx
