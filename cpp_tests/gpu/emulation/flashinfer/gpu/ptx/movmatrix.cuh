// Emulated gpu/ptx/movmatrix.cuh.
#pragma once

#include <cpp_tests/gpu/emulation/emulator.hpp>

namespace flashinfer::gpu::ptx {

inline uint32_t transpose_8x8(uint32_t pair) {
  return emulation::Block::current().collect<uint32_t>("movmatrix", pair, [](const uint32_t* const* lanes, uint32_t* const* results) {
    const auto element = [&](int row, int column) { return *lanes[row * 4 + column / 2] >> (column % 2 * 16) & 0xffffu; };
    for (int lane = 0; lane < 32; ++lane) *results[lane] = element(lane % 4 * 2, lane / 4) | element(lane % 4 * 2 + 1, lane / 4) << 16;
  });
}

}  // namespace flashinfer::gpu::ptx
