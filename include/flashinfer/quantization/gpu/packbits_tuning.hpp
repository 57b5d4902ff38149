// Host only. Launch shapes of packbits: a thread makes one byte a step, from one 8-byte load.
#pragma once

#include <flashinfer/quantization/packbits_params.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer::gpu {

inline constexpr int kPackbitsThreads = 256;
/// Bytes that a block makes. Four steps a thread keep enough loads in flight to reach the memory's rate.
inline constexpr int64_t kPackbitsTile = 4 * kPackbitsThreads;

struct PackbitsProblem {
  BitOrder order = BitOrder::big;
  bool segments = false;
  DType indptr = DType::i32;
};

constexpr PackbitsConfig tune(const PackbitsProblem& problem, const DeviceInfo&) {
  return {.order = problem.order, .segments = problem.segments, .indptr = problem.segments ? problem.indptr : DType::i32};
}

/// Every config that tune() can return.
template <class Visit>
constexpr void for_each_tuned_packbits(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (BitOrder order : {BitOrder::big, BitOrder::little}) {
    visit(tune(PackbitsProblem{order, false, DType::i32}, device));
    for (DType indptr : {DType::i32, DType::i64}) visit(tune(PackbitsProblem{order, true, indptr}, device));
  }
}

}  // namespace flashinfer::gpu
