// Emulated gpu/dynamic_smem.cuh.
#pragma once

#include <cpp_tests/gpu/emulation/emulator.hpp>

namespace flashinfer::gpu {

inline unsigned char* dynamic_smem() { return emulation::Block::current().smem(); }
inline unsigned char* held_smem(unsigned char* place) { return place; }
inline unsigned char* held_dynamic_smem() { return dynamic_smem(); }

}  // namespace flashinfer::gpu
