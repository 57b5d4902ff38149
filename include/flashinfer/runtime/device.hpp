// What tuning and planning may know of a GPU. A POD, so that both run and are tested on a machine without one.
#pragma once

#include <flashinfer/core/math.hpp>
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

/// Clusters of a launch that run at the same time, at least, where `blocks` of them fit on an SM: one more waits for another to end, as
/// long as all before it took together. A cluster lies within a GPC. As cuOccupancyMaxActiveClusters has it of an H200, and what is known
/// of an H100 is the same, two GPCs have 18 SMs, five 16, one 8, and the rest runs no more than pairs: a block an SM, 30 clusters of 4, 17
/// of 6, 15 of 8; two blocks an SM, 79 of 3, 62 of 4, 47 of 5, 39 of 6, 30 of 8, 14 of 16 (none in the small GPC). So clusters of powers of
/// two just miss as many rows as servers like, which clusters of 3, 5 and 6 have room for.
constexpr int64_t clusters_at_once(int32_t cluster, int32_t blocks, const DeviceInfo& device) {
  if (cluster <= 2) return int64_t(device.num_sms) * blocks / cluster;
  const int64_t gpcs = max((device.num_sms - 10) / 17, 1), larger = device.num_sms == 132 ? 2 : 0;
  const int64_t rest = device.num_sms >= 34 && cluster <= 8 ? 8 : 0;
  return max(larger * (18 * blocks / cluster) + (gpcs - larger) * (16 * blocks / cluster) + rest * blocks / cluster, int64_t(1));
}

}  // namespace flashinfer
