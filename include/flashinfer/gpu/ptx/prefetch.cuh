// Cache hints. They change no result, so they may run before griddep_wait on data that a predecessor still writes.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

/// Brings the line of `p` into the L2 cache, which is coherent: a later write by another kernel is seen.
FLASHINFER_DEVICE void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

}  // namespace flashinfer::gpu::ptx
