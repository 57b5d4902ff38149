// Emulated gpu/ptx/opaque.cuh.
#pragma once

namespace flashinfer::gpu::ptx {

inline int opaque(int x) { return x; }

}  // namespace flashinfer::gpu::ptx
