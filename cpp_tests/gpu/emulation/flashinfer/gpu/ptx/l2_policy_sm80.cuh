// Emulated gpu/ptx/l2_policy_sm80.cuh: there is no L2.
#pragma once

#include <cstdint>

namespace flashinfer::gpu::ptx {

inline uint64_t l2_evict_first() { return 0; }

}  // namespace flashinfer::gpu::ptx
