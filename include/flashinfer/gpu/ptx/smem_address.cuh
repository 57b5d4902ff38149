// The address that PTX knows a byte of shared memory by.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer::gpu::ptx {

FLASHINFER_DEVICE uint32_t smem_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

}  // namespace flashinfer::gpu::ptx
