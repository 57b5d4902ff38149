// Host only. How RMSNorm spreads rows over threads. Tested on any machine: cpp_tests/norm/test_rmsnorm.cpp.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/norm/rmsnorm_params.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer::gpu {

struct RmsnormProblem {
  DType input = DType::bf16, weight = DType::bf16, output = DType::bf16;
  bool residual = false;
  int vec = 8;  // elements that every row can be loaded by
  int64_t num_rows = 0;
  int64_t hidden_size = 0;
};

constexpr RmsnormConfig tune(const RmsnormProblem& problem, const DeviceInfo& device) {
  const int64_t units = ceil_div(problem.hidden_size, int64_t(problem.vec));
  // What a thread keeps of a row: 64 bytes, half of it where the residual needs as much. Narrow vectors take a register each.
  const int64_t most_vecs = clamp((problem.residual ? 32 : 64) / (problem.vec * size_of(problem.input)), 1, 8);
  // Few rows: the time is that of one load, one reduction and one store, so every load gets its own thread. Many: two loads a
  // thread and row, and two of the next row, fill the memory's queues, and fewer warps meet at the barrier.
  const int64_t vecs_wanted = problem.num_rows <= device.num_sms ? 1 : 2;
  int64_t threads = 1;
  while (threads < min(units, int64_t(32)) || (threads < 512 && threads * vecs_wanted < units) ||
         (threads < 1024 && threads * most_vecs < units))
    threads *= 2;
  const int64_t vecs = ceil_div(units, threads);
  return {.input = problem.input,
          .weight = problem.weight,
          .output = problem.output,
          .residual = problem.residual,
          .vec = problem.vec,
          .vecs = int32_t(vecs <= most_vecs ? vecs : 0),
          .threads_per_row = int32_t(threads),
          .rows_per_block = int32_t(max(128 / threads, int64_t(1)))};
}

/// What a kernel is likely to be asked for: precompiled without a GPU. Heads of QK-norm and the hidden sizes of models (3584 and
/// 5120 to 8192 share their kernels with 4096 and 8192), few rows and many.
template <class Visit>
constexpr void for_each_tuned_rmsnorm(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (bool residual : {false, true})
    for (int64_t hidden_size : {128, 2048, 4096, 8192})
      for (int64_t num_rows : {1, 4096}) {
        for (DType dtype : {DType::f16, DType::bf16})
          visit(tune(RmsnormProblem{dtype, dtype, dtype, residual, 8, num_rows, hidden_size}, device));
        visit(tune(RmsnormProblem{DType::bf16, DType::bf16, DType::e4m3, residual, 8, num_rows, hidden_size}, device));
      }
}

}  // namespace flashinfer::gpu
