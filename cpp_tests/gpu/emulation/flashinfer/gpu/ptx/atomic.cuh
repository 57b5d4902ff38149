// Emulated gpu/ptx/atomic.cuh: blocks run one after another.
#pragma once

#include <cpp_tests/gpu/emulation/emulator.hpp>

namespace flashinfer::gpu::ptx {

inline int32_t atomic_add_acq_rel(int32_t* p, int32_t x) { return atomicAdd(p, x); }

}  // namespace flashinfer::gpu::ptx
