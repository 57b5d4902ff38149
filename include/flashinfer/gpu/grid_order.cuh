// The order of the kernels of one call that work on different rows: they run beside each other, and what comes after the call waits for
// all.
#pragma once

#include <flashinfer/gpu/ptx/griddep_sm90.cuh>

namespace flashinfer::gpu {

/// Waits for what came before the call. `beside`: for all launches of it but the first, whose predecessor is the launch before: their
/// blocks begin when every block there has waited for the same.
FLASHINFER_DEVICE void wait_for_inputs(bool beside) {
  if (beside) {
    ptx::griddep_acquire();
  } else {
    ptx::griddep_wait();
  }
}
/// The last that a kernel does: its grid ends after the one before, so who waits for this one has waited for both. By one block, for others
/// may need its place on an SM. (On an H100 who waits has waited for all grids before, but PTX promises that of the one before alone.)
FLASHINFER_DEVICE void end_after_inputs(bool beside) {
  if (beside && blockIdx.x == 0) ptx::griddep_wait();
}

}  // namespace flashinfer::gpu
