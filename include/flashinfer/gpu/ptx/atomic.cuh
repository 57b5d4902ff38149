// Atomic operations that also order other memory accesses, across the GPU (PTX ISA, "memory consistency model").
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

/// Returns what was there. What this thread has written, or has seen of others through a barrier, is visible to the thread that adds next
/// and to those that meet it at a barrier afterwards.
FLASHINFER_DEVICE int32_t atomic_add_acq_rel(int32_t* p, int32_t x) {
  int32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;" : "=r"(before) : "l"(p), "r"(x) : "memory");
  return before;
}

}  // namespace flashinfer::gpu::ptx
