// What tuning and planning may know of a GPU. A POD, so that both run and are tested on a machine without one.
#pragma once

#include <flashinfer/runtime/arch.hpp>

namespace flashinfer {

struct DeviceInfo {
  Arch arch;
  int32_t num_sms = 0;
  int32_t smem_per_block = 0;  // bytes one block may opt in to
  int32_t smem_per_sm = 0;
  int64_t l2_bytes = 0;
};

/// Known GPUs, for tests and for precompiling without one: the smallest part of each architecture.
constexpr DeviceInfo device_info_of(Arch arch) {
  switch (arch.number) {
    case 75: return {arch, 40, 64 << 10, 64 << 10, 4 << 20};
    case 80: return {arch, 108, 163 << 10, 164 << 10, 40 << 20};
    case 87: return {arch, 16, 163 << 10, 164 << 10, 4 << 20};
    case 86:
    case 89:
    case 120:
    case 121: return {arch, 48, 99 << 10, 100 << 10, 24 << 20};
    case 90: return {arch, 132, 227 << 10, 228 << 10, 50 << 20};
    default: return {arch, 148, 227 << 10, 228 << 10, 126 << 20};
  }
}

}  // namespace flashinfer
