// The copy engine without a tensor map: contiguous bytes from global to shared memory (PTX ISA, "cp.async.bulk").
// Both addresses and the size are multiples of 16. Completion is counted in bytes by an mbarrier.
#pragma once

#include <flashinfer/gpu/ptx/l2_policy_sm80.cuh>
#include <flashinfer/gpu/ptx/mbarrier_sm90.cuh>

namespace flashinfer::gpu::ptx {

/// Between ordinary writes to shared memory and copies to the same place: in the writing thread, before the barrier.
FLASHINFER_DEVICE void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

FLASHINFER_DEVICE void bulk_copy(void* shared, const void* global, uint32_t bytes, Mbarrier* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(smem_address(shared)),
               "l"(global), "r"(bytes), "r"(smem_address(barrier))
               : "memory");
}
FLASHINFER_DEVICE void bulk_copy(void* shared, const void* global, uint32_t bytes, Mbarrier* barrier, uint64_t l2_policy) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
                   smem_address(shared)),
               "l"(global), "r"(bytes), "r"(smem_address(barrier)), "l"(l2_policy)
               : "memory");
}

}  // namespace flashinfer::gpu::ptx
