// How long L2 keeps what a copy brings (PTX ISA, "createpolicy").
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

/// Data read once: first to leave L2.
FLASHINFER_DEVICE uint64_t l2_evict_first() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

}  // namespace flashinfer::gpu::ptx
