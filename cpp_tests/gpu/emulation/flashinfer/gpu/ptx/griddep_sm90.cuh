// Emulated gpu/ptx/griddep_sm90.cuh: grids run one after another.
#pragma once

namespace flashinfer::gpu::ptx {

inline void griddep_wait() {}
inline void griddep_acquire() {}
inline void griddep_launch_dependents() {}

}  // namespace flashinfer::gpu::ptx
