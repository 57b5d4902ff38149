// The dynamic shared memory of a block, whose size the launch chose (LaunchShape::smem_bytes).
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu {

/// Aligned to 128 bytes, enough for vectors and bulk copies.
FLASHINFER_DEVICE unsigned char* dynamic_smem() {
  extern __shared__ __align__(128) unsigned char flashinfer_dynamic_smem[];
  return flashinfer_dynamic_smem;
}

}  // namespace flashinfer::gpu
