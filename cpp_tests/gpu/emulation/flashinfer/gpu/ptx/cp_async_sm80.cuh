// Emulated gpu/ptx/cp_async_sm80.cuh. A copy poisons its destination when it is issued and lands when it is waited for.
// -DFLASHINFER_EMULATED_ARCH=75 emulates a Turing.
#pragma once

#include <cpp_tests/gpu/emulation/emulator.hpp>

namespace flashinfer::gpu::ptx {

#ifndef FLASHINFER_EMULATED_ARCH
#define FLASHINFER_EMULATED_ARCH 80
#endif
inline constexpr bool kHasCpAsync = FLASHINFER_EMULATED_ARCH >= 80;

inline void cp_async_16(uint32_t smem, const void* global, bool valid) {
  unsigned char* to = emulation::Block::current().smem() + smem;
  if (smem % 16 || uintptr_t(global) % 16 || smem + 16 > emulation::Block::current().smem_bytes()) {
    std::fprintf(stderr, "emulation: cp.async: %p to %u\n", global, smem);
    std::abort();
  }
  std::memset(to, 0xff, 16);
  emulation::Block::current().fiber().open.push_back({to, global, valid});
}
inline void cp_async_commit() {
  emulation::Fiber& self = emulation::Block::current().fiber();
  self.groups.push_back(std::move(self.open));
  self.open.clear();
}
template <int kPending>
void cp_async_wait() {
  emulation::Fiber& self = emulation::Block::current().fiber();
  while (self.groups.size() > size_t(kPending)) {
    emulation::Block::land(self.groups.front());
    self.groups.erase(self.groups.begin());
  }
}

}  // namespace flashinfer::gpu::ptx
