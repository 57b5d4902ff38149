// A barrier of some of a block's warps (PTX ISA, "bar"). Barrier 0 is that of __syncthreads; there are 15 more.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

/// The same barrier and number of threads, a multiple of 32, in all that meet.
FLASHINFER_DEVICE void sync_threads(int barrier, int num_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(num_threads) : "memory");
}

}  // namespace flashinfer::gpu::ptx
