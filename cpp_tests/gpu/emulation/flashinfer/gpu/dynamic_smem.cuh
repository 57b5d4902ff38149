// Emulated gpu/dynamic_smem.cuh.
#pragma once

#include <cpp_tests/gpu/emulation/emulator.hpp>

namespace flashinfer::gpu {

inline unsigned char* dynamic_smem() { return emulation::Block::current().smem(); }

}  // namespace flashinfer::gpu
