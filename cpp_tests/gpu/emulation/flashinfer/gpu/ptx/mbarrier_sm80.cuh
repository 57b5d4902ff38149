// Emulated gpu/ptx/mbarrier_sm80.cuh. Copies that are to arrive at a barrier land as late as they may.
#pragma once

#include <cpp_tests/gpu/emulation/emulator.hpp>

namespace flashinfer::gpu::ptx {

using Mbarrier = uint64_t;

inline void mbarrier_init(Mbarrier* barrier, uint32_t arrivals) { emulation::Block::current().init_mbarrier(barrier, int(arrivals)); }
inline void mbarrier_arrive(Mbarrier* barrier) { emulation::Block::current().arrive_at(barrier, 1, 0, 0); }
inline void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
  emulation::Block& block = emulation::Block::current();
  block.wait_until("mbarrier", [&block, barrier, parity] { return (block.mbarrier(barrier).phase & 1) != parity; });
}
inline void cp_async_mbarrier_arrive(Mbarrier* barrier) {
  emulation::Fiber& self = emulation::Block::current().fiber();
  emulation::Block::current().pend({std::move(self.open), barrier});
  self.open.clear();
}

}  // namespace flashinfer::gpu::ptx
