// Host only. How LayerNorm spreads rows over threads.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/norm/layernorm_params.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer::gpu {

struct LayernormProblem {
  DType input = DType::bf16, weight = DType::f32, output = DType::bf16;
  int vec = 8;  // elements that every row can be loaded by
  int64_t num_rows = 0;
  int64_t hidden_size = 0;
};

constexpr LayernormConfig tune(const LayernormProblem& problem, const DeviceInfo& device) {
  const int64_t units = ceil_div(problem.hidden_size, int64_t(problem.vec));
  const int64_t most_vecs = clamp(64 / (problem.vec * size_of(problem.input)), 1, 8);  // 64 bytes of a row in a thread's registers
  // Few rows: every load gets its own thread. Many: two loads a thread, so that fewer warps meet at the barriers.
  const int64_t vecs_wanted = problem.num_rows <= device.num_sms ? 1 : 2;
  int64_t threads = 1;
  while (threads < min(units, int64_t(32)) || (threads < 512 && threads * vecs_wanted < units) ||
         (threads < 1024 && threads * most_vecs < units))
    threads *= 2;
  const int64_t vecs = ceil_div(units, threads);
  return {.input = problem.input,
          .weight = problem.weight,
          .output = problem.output,
          .vec = problem.vec,
          .vecs = int32_t(vecs <= most_vecs ? vecs : 0),
          .threads_per_row = int32_t(threads),
          .rows_per_block = int32_t(max(128 / threads, int64_t(1)))};
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_layernorm(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (DType output : {DType::bf16, DType::e4m3})
    for (int64_t hidden_size : {128, 1024, 4096, 16384})
      for (int64_t num_rows : {1, 4096}) visit(tune(LayernormProblem{DType::bf16, DType::f32, output, 8, num_rows, hidden_size}, device));
}

}  // namespace flashinfer::gpu
