// Emulated gpu/ptx/smem_address.cuh: offsets into the block's shared memory.
#pragma once

#include <cpp_tests/gpu/emulation/emulator.hpp>

namespace flashinfer::gpu::ptx {

inline uint32_t smem_address(const void* p) { return uint32_t(static_cast<const unsigned char*>(p) - emulation::Block::current().smem()); }

}  // namespace flashinfer::gpu::ptx
