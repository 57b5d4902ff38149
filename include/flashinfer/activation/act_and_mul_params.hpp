// What host and device share of the gated activations: the arguments of one launch and the compile-time choices of its kernel.
#pragma once

#include <flashinfer/core/dtype.hpp>
#include <flashinfer/core/rows.hpp>

namespace flashinfer {

enum class Activation : uint8_t {
  silu,       // x / (1 + e^-x)
  gelu,       // x Phi(x) = x (1 + erf(x / sqrt(2))) / 2
  gelu_tanh,  // x (1 + tanh(u)) / 2 = x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3)
};
FLASHINFER_HOST_DEVICE constexpr const char* type_name(Activation) { return "Activation"; }

/// 2 sqrt(2 / pi): gelu_tanh is x sigmoid(kGeluTanh (x + kGeluTanhCubic x^3)).
inline constexpr float kGeluTanh = 1.59576912160573f;
inline constexpr float kGeluTanhCubic = 0.044715f;

struct ActAndMulParams {
  const void* input = nullptr;
  void* output = nullptr;
  Rows input_rows, output_rows;
  int64_t num_rows = 0;
  int64_t dim = 0;  // of the output; a row of the input is the gate, then as many multipliers
};

struct ActAndMulConfig {
  static constexpr const char *kName = "ActAndMulConfig", *kKernel = "ActAndMulKernel", *kHeader = "activation/gpu/act_and_mul_kernel.cuh";

  Activation activation = Activation::silu;
  DType dtype = DType::bf16;
  int32_t vec = 8;        // elements of a load
  int32_t vecs = 4;       // vectors a thread makes
  int32_t threads = 256;  // of a block

  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("activation", activation), f("dtype", dtype), f("vec", vec), f("vecs", vecs), f("threads", threads);
  }
};

}  // namespace flashinfer
