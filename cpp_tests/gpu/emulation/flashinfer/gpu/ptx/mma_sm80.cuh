// Emulated gpu/ptx/mma_sm80.cuh and, for Turing, mma_sm75.cuh.
#pragma once

#include <flashinfer/core/number.hpp>

#include <cpp_tests/gpu/emulation/flashinfer/gpu/ptx/cp_async_sm80.cuh>

namespace flashinfer::gpu::ptx {

inline constexpr bool kHasBf16Mma = FLASHINFER_EMULATED_ARCH >= 80;

struct MmaOperands {
  float c[4];
  uint32_t a[4], b[2];
};
struct MmaSums {
  float c[4];
};
template <class T>
void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(is_same_v<T, f16> || kHasBf16Mma);
  const MmaOperands mine = {{c[0], c[1], c[2], c[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  const MmaSums sums =
      emulation::Block::current().collect<MmaSums>("mma_m16n8k16", mine, [](const MmaOperands* const* lanes, MmaSums* const* results) {
        float left[16][16], right[16][8];
        auto element = [](uint32_t word, int half) { return to_float(T{uint16_t(word >> (16 * half))}); };
        for (int lane = 0; lane < 32; ++lane)
          for (int half = 0; half < 2; ++half) {
            const int row = lane / 4, column = lane % 4 * 2 + half;
            for (int i = 0; i < 4; ++i) left[row + i % 2 * 8][column + i / 2 * 8] = element(lanes[lane]->a[i], half);
            for (int i = 0; i < 2; ++i) right[column + i * 8][row] = element(lanes[lane]->b[i], half);
          }
        for (int lane = 0; lane < 32; ++lane)
          for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = lanes[lane]->c[i];
            for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
            results[lane]->c[i] = sum;
          }
      });
  for (int i = 0; i < 4; ++i) c[i] = sums.c[i];
}

}  // namespace flashinfer::gpu::ptx
