// The only __global__ function of the library. A kernel is a struct:
//   Params (POD, by value), kThreads, kMinBlocks, static run(const Params&).
// The JIT writes the same wrapper under the fixed name flashinfer_kernel (jit/jit_kernels.hpp).
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kMinBlocks) entry(const __grid_constant__ typename Kernel::Params params) {
  Kernel::run(params);
}

}  // namespace flashinfer::gpu
