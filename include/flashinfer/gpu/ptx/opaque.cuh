// Keeps computations where they are written. A persistent kernel's loop over items has much that depends on the thread alone;
// hoisted out of the loop it would occupy registers that the inner loop needs, and spill.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

/// x, of which the compiler knows nothing any more: what follows from it is computed after this point.
FLASHINFER_DEVICE int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
FLASHINFER_DEVICE float opaque(float x) {
  asm volatile("" : "+f"(x));
  return x;
}
template <class T>
FLASHINFER_DEVICE T* opaque(T* x) {
  asm volatile("" : "+l"(x));
  return x;
}

}  // namespace flashinfer::gpu::ptx
