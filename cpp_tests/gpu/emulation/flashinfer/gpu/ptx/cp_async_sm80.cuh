// Emulated gpu/ptx/cp_async_sm80.cuh. A copy poisons its destination when it is issued and lands when it is waited for.
// -DFLASHINFER_EMULATED_ARCH=75 emulates a Turing.
#pragma once

#include <cpp_tests/gpu/emulation/emulator.hpp>

namespace flashinfer::gpu::ptx {

#ifndef FLASHINFER_EMULATED_ARCH
#define FLASHINFER_EMULATED_ARCH 80
#endif
inline constexpr bool kHasCpAsync = FLASHINFER_EMULATED_ARCH >= 80;

inline void cp_async(uint32_t smem, const void* global, uint32_t bytes, bool valid) {
  unsigned char* to = emulation::Block::current().smem() + smem;
  if (smem % bytes || uintptr_t(global) % bytes || smem + bytes > emulation::Block::current().smem_bytes()) {
    std::fprintf(stderr, "emulation: cp.async: %u bytes, %p to %u\n", bytes, global, smem);
    std::abort();
  }
  std::memset(to, 0xff, bytes);
  emulation::Block::current().fiber().open.push_back({to, global, valid, bytes});
}
template <bool kOnce = false>
void cp_async_16(uint32_t smem, const void* global, bool valid) {
  cp_async(smem, global, 16, valid);
}
inline void cp_async_4(uint32_t smem, const void* global, bool valid) { cp_async(smem, global, 4, valid); }
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
