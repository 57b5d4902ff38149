// Emulated gpu/ptx/store.cuh.
#pragma once

#include <flashinfer/core/std.hpp>

#include <cstring>

namespace flashinfer::gpu::ptx {

template <class... Words>
void store_global(void* p, Words... words) {
  const uint32_t all[] = {words...};
  std::memcpy(p, all, sizeof(all));
}

}  // namespace flashinfer::gpu::ptx
