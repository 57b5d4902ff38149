// Emulated gpu/ptx/named_barrier.cuh.
#pragma once

#include <cpp_tests/gpu/emulation/emulator.hpp>

namespace flashinfer::gpu::ptx {

inline void sync_threads(int barrier, int num_threads) { emulation::Block::current().sync_some(barrier, num_threads); }

}  // namespace flashinfer::gpu::ptx
