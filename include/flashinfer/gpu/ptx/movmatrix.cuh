// Transposes an 8x8 matrix of 16-bit elements that lies in a warp's registers: lane i holds elements 2 * (i % 4) and the next of row i / 4.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

FLASHINFER_DEVICE uint32_t transpose_8x8(uint32_t pair) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
  return transposed;
}

}  // namespace flashinfer::gpu::ptx
