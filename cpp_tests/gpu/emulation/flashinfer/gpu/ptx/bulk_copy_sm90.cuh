// Emulated gpu/ptx/bulk_copy_sm90.cuh. A copy poisons its destination when it is issued and lands as late as it may.
#pragma once

#include <cpp_tests/gpu/emulation/flashinfer/gpu/ptx/l2_policy_sm80.cuh>
#include <cpp_tests/gpu/emulation/flashinfer/gpu/ptx/mbarrier_sm90.cuh>

namespace flashinfer::gpu::ptx {

inline void async_proxy_fence() {}
inline void bulk_copy(void* shared, const void* global, uint32_t bytes, Mbarrier* barrier) {
  emulation::Block& block = emulation::Block::current();
  auto* to = static_cast<unsigned char*>(shared);
  if (uintptr_t(shared) % 16 || uintptr_t(global) % 16 || bytes % 16 || bytes == 0 || to < block.smem() ||
      to + bytes > block.smem() + block.smem_bytes()) {
    std::fprintf(stderr, "emulation: bulk copy of %u bytes from %p to %p\n", bytes, global, shared);
    std::abort();
  }
  std::memset(to, 0xff, bytes);
  emulation::PendingArrival arrival{{}, barrier, 0, bytes};
  for (uint32_t i = 0; i < bytes; i += 16) arrival.copies.push_back({to + i, static_cast<const unsigned char*>(global) + i, true});
  block.pend(std::move(arrival));
}
inline void bulk_copy(void* shared, const void* global, uint32_t bytes, Mbarrier* barrier, uint64_t) {
  bulk_copy(shared, global, bytes, barrier);
}

}  // namespace flashinfer::gpu::ptx
