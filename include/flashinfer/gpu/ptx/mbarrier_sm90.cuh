// Barriers in shared memory that count arrivals of threads and bytes of asynchronous copies (PTX ISA, "mbarrier").
// A barrier has a phase of one bit; waiting for parity p returns once the phase with that parity has completed. A ring of stages
// starts with consumers waiting for parity 0 of `full` and producers for parity 1 of `empty`, which a fresh barrier passes at once.
#pragma once

#include <flashinfer/gpu/ptx/smem_address.cuh>

namespace flashinfer::gpu::ptx {

using Mbarrier = uint64_t;

FLASHINFER_DEVICE void mbarrier_init(Mbarrier* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(barrier)), "r"(arrivals) : "memory");
}
/// After the inits of one thread, before the block's __syncthreads: the copy engine and other blocks of the cluster see them.
FLASHINFER_DEVICE void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
FLASHINFER_DEVICE void mbarrier_arrive(Mbarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_address(barrier)) : "memory");
}
/// One arrival, and `bytes` more that asynchronous copies must bring before the phase completes.
FLASHINFER_DEVICE void mbarrier_arrive_expect(Mbarrier* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(barrier)), "r"(bytes) : "memory");
}
FLASHINFER_DEVICE void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "wait:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra finished;\nbra wait;\n"
      "finished:\n}" ::"r"(smem_address(barrier)),
      "r"(parity)
      : "memory");
}
/// All earlier cp.async copies of this thread arrive at the barrier when they land, in place of the thread itself.
FLASHINFER_DEVICE void cp_async_mbarrier_arrive(Mbarrier* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(smem_address(barrier)) : "memory");
}

}  // namespace flashinfer::gpu::ptx
