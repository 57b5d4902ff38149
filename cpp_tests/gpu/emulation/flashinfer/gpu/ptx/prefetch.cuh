// Emulated gpu/ptx/prefetch.cuh: a hint.
#pragma once

namespace flashinfer::gpu::ptx {

inline void prefetch_l2(const void*) {}

}  // namespace flashinfer::gpu::ptx
