// Four 8x8 matrices of 16-bit elements from shared memory into the fragments that mma.sync takes: lane i gives the address of
// row i % 8 of matrix i / 8 (16 bytes, aligned), and receives in word m elements 2 * (i % 4) and the next of row i / 4 of matrix m.
#pragma once

#include <flashinfer/gpu/ptx/smem_address.cuh>

namespace flashinfer::gpu::ptx {

FLASHINFER_DEVICE void ldmatrix_x4(uint32_t (&words)[4], uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(smem)
               : "memory");
}
/// The same of the transposed matrices: lane i receives rows 2 * (i % 4) and the next of column i / 4.
FLASHINFER_DEVICE void ldmatrix_x4_transposed(uint32_t (&words)[4], uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(smem)
               : "memory");
}

}  // namespace flashinfer::gpu::ptx
