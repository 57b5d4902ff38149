// Emulated gpu/ptx/ldmatrix.cuh.
#pragma once

#include <cpp_tests/gpu/emulation/flashinfer/gpu/ptx/smem_address.cuh>

namespace flashinfer::gpu::ptx {

struct Words4 {
  uint32_t words[4];
};
template <bool kTransposed>
void ldmatrix_x4(uint32_t (&words)[4], uint32_t smem, const char* name) {
  const Words4 loaded =
      emulation::Block::current().collect<Words4>(name, smem, [](const uint32_t* const* addresses, Words4* const* results) {
        const unsigned char* memory = emulation::Block::current().smem();
        for (int m = 0; m < 4; ++m) {
          uint16_t matrix[8][8];
          for (int row = 0; row < 8; ++row) {
            const uint32_t at = *addresses[8 * m + row];
            if (at % 16 || at + 16 > emulation::Block::current().smem_bytes())
              std::fprintf(stderr, "emulation: ldmatrix at %u\n", at), std::abort();
            std::memcpy(matrix[row], memory + at, 16);
          }
          for (int lane = 0; lane < 32; ++lane) {
            const int i = lane / 4, j = lane % 4 * 2;
            const uint16_t low = kTransposed ? matrix[j][i] : matrix[i][j], high = kTransposed ? matrix[j + 1][i] : matrix[i][j + 1];
            results[lane]->words[m] = low | uint32_t(high) << 16;
          }
        }
      });
  for (int m = 0; m < 4; ++m) words[m] = loaded.words[m];
}
inline void ldmatrix_x4(uint32_t (&words)[4], uint32_t smem) { ldmatrix_x4<false>(words, smem, "ldmatrix_x4"); }
inline void ldmatrix_x4_transposed(uint32_t (&words)[4], uint32_t smem) { ldmatrix_x4<true>(words, smem, "ldmatrix_x4_transposed"); }

}  // namespace flashinfer::gpu::ptx
