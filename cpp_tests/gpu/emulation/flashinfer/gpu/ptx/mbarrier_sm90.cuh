// Emulated gpu/ptx/mbarrier_sm90.cuh.
#pragma once

#include <cpp_tests/gpu/emulation/flashinfer/gpu/ptx/mbarrier_sm80.cuh>

namespace flashinfer::gpu::ptx {

inline void mbarrier_init_fence() {}
inline void mbarrier_arrive_expect(Mbarrier* barrier, uint32_t bytes) { emulation::Block::current().arrive_at(barrier, 1, bytes, 0); }

}  // namespace flashinfer::gpu::ptx
