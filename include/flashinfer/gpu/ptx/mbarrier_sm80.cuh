// Barriers in shared memory that count arrivals of threads and of asynchronous copies (PTX ISA, "mbarrier").
// A barrier has a phase of one bit; waiting for parity p returns once the phase with that parity has completed. A ring of stages
// starts with consumers waiting for parity 0 of `full` and producers for parity 1 of `empty`, which a fresh barrier passes at once.
#pragma once

#include <flashinfer/gpu/ptx/smem_address.cuh>

namespace flashinfer::gpu::ptx {

using Mbarrier = uint64_t;

FLASHINFER_DEVICE void mbarrier_init(Mbarrier* barrier, uint32_t arrivals) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(smem_address(barrier)), "r"(arrivals) : "memory");
#endif
}
/// Releases what this thread has written to those who wait.
FLASHINFER_DEVICE void mbarrier_arrive(Mbarrier* barrier) {
#if __CUDA_ARCH__ >= 800
  asm volatile("{.reg .b64 state;\n mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(smem_address(barrier)) : "memory");
#endif
}
FLASHINFER_DEVICE void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .pred done;\n"
      "wait:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@done bra finished;\nbra wait;\n"
      "finished:\n}" ::"r"(smem_address(barrier)),
      "r"(parity)
      : "memory");
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "{\n.reg .pred done;\n"
      "wait:\nmbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n@done bra finished;\nbra wait;\n"
      "finished:\n}" ::"r"(smem_address(barrier)),
      "r"(parity)
      : "memory");
#endif
}
/// All earlier cp.async copies of this thread arrive at the barrier when they land, in place of the thread itself.
FLASHINFER_DEVICE void cp_async_mbarrier_arrive(Mbarrier* barrier) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(smem_address(barrier)) : "memory");
#endif
}

}  // namespace flashinfer::gpu::ptx
