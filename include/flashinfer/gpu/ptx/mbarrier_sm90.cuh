// What Hopper adds to barriers in shared memory (gpu/ptx/mbarrier_sm80.cuh): they also count the bytes that the copy engine brings.
#pragma once

#include <flashinfer/gpu/ptx/mbarrier_sm80.cuh>

namespace flashinfer::gpu::ptx {

/// After the inits of one thread, before the block's __syncthreads: the copy engine and other blocks of the cluster see them.
FLASHINFER_DEVICE void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/// One arrival, and `bytes` more that asynchronous copies must bring before the phase completes.
FLASHINFER_DEVICE void mbarrier_arrive_expect(Mbarrier* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(barrier)), "r"(bytes) : "memory");
}

}  // namespace flashinfer::gpu::ptx
