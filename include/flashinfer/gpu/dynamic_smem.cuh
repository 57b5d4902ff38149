// The dynamic shared memory of a block, whose size the launch chose (LaunchShape::smem_bytes).
#pragma once

#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/ptx/smem_address.cuh>

namespace flashinfer::gpu {

/// Aligned to 128 bytes, enough for vectors and bulk copies.
FLASHINFER_DEVICE unsigned char* dynamic_smem() {
  extern __shared__ __align__(128) unsigned char flashinfer_dynamic_smem[];
  return flashinfer_dynamic_smem;
}

/// The same place, its address held in a register: in kernels of clusters the compiler derives it from the block's rank again at every
/// use, which short loops wait for.
FLASHINFER_DEVICE unsigned char* held_smem(unsigned char* place) {
  const int address = ptx::opaque(int(ptx::smem_address(place)));
  return static_cast<unsigned char*>(__cvta_shared_to_generic(size_t(uint32_t(address))));
}
FLASHINFER_DEVICE unsigned char* held_dynamic_smem() { return held_smem(dynamic_smem()); }

}  // namespace flashinfer::gpu
