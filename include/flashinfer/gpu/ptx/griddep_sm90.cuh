// Programmatic dependent launch: a kernel may start while its predecessor on the stream still drains.
// Below sm_90 both are nothing, and the host never sets the launch attribute there.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

/// Waits until all predecessors have finished and their writes are visible. Before it a kernel may read only what no
/// kernel of the stream writes (weights, its parameters); after it, everything. No-op in an ordinary launch.
FLASHINFER_DEVICE void griddep_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Sees what had been written when the predecessor let this grid start (PTX memory model: fence). Not what the predecessor itself writes.
FLASHINFER_DEVICE void griddep_acquire() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
#endif
}

/// Lets the successor's blocks start as soon as every block of this grid has said so or has exited.
FLASHINFER_DEVICE void griddep_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace flashinfer::gpu::ptx
