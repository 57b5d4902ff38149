// Host only. How the gated activations spread elements over threads.
#pragma once

#include <flashinfer/activation/act_and_mul_params.hpp>
#include <flashinfer/core/math.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer::gpu {

struct ActAndMulProblem {
  Activation activation = Activation::silu;
  DType dtype = DType::bf16;
  int vec = 8;  // elements that gate, up and output can be accessed by
  int64_t num_rows = 0;
  int64_t dim = 0;
};

constexpr ActAndMulConfig tune(const ActAndMulProblem& problem, const DeviceInfo& device) {
  const int64_t units = ceil_div(problem.dim, int64_t(problem.vec));
  // Four vectors of gate and of up a thread, 128 bytes in flight, where that still fills the GPU twice; else one, on more SMs.
  const bool many = problem.num_rows * units >= 2 * device.num_sms * int64_t(2048) * 4;
  const int32_t vecs = many ? 4 : 1;
  int32_t threads = 64;
  while (threads < 256 && threads * vecs < units) threads *= 2;
  return {.activation = problem.activation, .dtype = problem.dtype, .vec = problem.vec, .vecs = vecs, .threads = threads};
}

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_act_and_mul(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh})
    for (DType dtype : {DType::f16, DType::bf16})
      for (int64_t num_rows : {1, 16384}) visit(tune(ActAndMulProblem{activation, dtype, 8, num_rows, 14336}, device));
}

}  // namespace flashinfer::gpu
