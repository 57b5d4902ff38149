// Host only. The kernel of merge_state follows from the shape of a row.
#pragma once

#include <flashinfer/attention/merge_state_params.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer::gpu {

struct MergeStateProblem {
  DType dtype = DType::bf16;
  int head_dim = 128;
  int vec = 8;  // elements that every row can be loaded by
  int32_t num_states = 2;
};

constexpr MergeStateConfig tune(const MergeStateProblem& problem, const DeviceInfo&) {
  return {.dtype = problem.dtype, .head_dim = problem.head_dim, .vec = problem.vec, .pair = problem.num_states == 2};
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_merge_state(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (int32_t num_states : {2, 8}) {
    for (DType dtype : {DType::bf16, DType::f16, DType::f32})
      for (int head_dim : {64, 128, 256, 512}) visit(tune(MergeStateProblem{dtype, head_dim, 16 / size_of(dtype), num_states}, device));
    visit(tune(MergeStateProblem{DType::bf16, 72, 1, num_states}, device));
  }
}

}  // namespace flashinfer::gpu
