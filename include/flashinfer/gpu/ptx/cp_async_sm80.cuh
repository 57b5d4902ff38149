// Asynchronous copies from global to shared memory, 16 bytes a thread past the registers and L1, or single words. A thread waits for its
// own copies, by groups in the order of their commits; a barrier then makes them visible to the others.
#pragma once

#include <flashinfer/core/std.hpp>
#include <flashinfer/gpu/ptx/l2_policy_sm80.cuh>

namespace flashinfer::gpu::ptx {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
inline constexpr bool kHasCpAsync = false;
#else
inline constexpr bool kHasCpAsync = true;
#endif

/// Both addresses are multiples of 16. An invalid source is not read: zeros are written. kOnce: nobody reads it again.
template <bool kOnce = false>
FLASHINFER_DEVICE void cp_async_16(uint32_t smem, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  if constexpr (kOnce)
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(smem), "l"(global), "r"(valid ? 16 : 0),
                 "l"(l2_evict_first())
                 : "memory");
  else
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(smem), "l"(global), "r"(valid ? 16 : 0) : "memory");
#endif
}
/// Four bytes, through L1; both addresses are multiples of 4.
FLASHINFER_DEVICE void cp_async_4(uint32_t smem, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(smem), "l"(global), "r"(valid ? 4 : 0) : "memory");
#endif
}
FLASHINFER_DEVICE void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Waits until at most kPending of this thread's latest groups are still under way.
template <int kPending>
FLASHINFER_DEVICE void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace flashinfer::gpu::ptx
