// What host and device share of RMSNorm: the arguments of one launch and the compile-time choices of its kernel.
#pragma once

#include <flashinfer/core/dtype.hpp>
#include <flashinfer/core/math.hpp>
#include <flashinfer/core/rows.hpp>

namespace flashinfer {

struct RmsnormParams {
  const void* input = nullptr;
  void* residual = nullptr;  // read, then written; null without one
  const void* weight = nullptr;
  void* output = nullptr;
  const float* scale = nullptr;  // null: scale_value
  Rows input_rows, residual_rows, output_rows;
  int64_t num_rows = 0;
  int32_t hidden_size = 0;
  float eps = 0;
  float weight_bias = 0;  // 1 for Gemma
  float scale_value = 1;
};

/// FP8 outputs are divided by the scale; the others have none.
struct RmsnormConfig {
  static constexpr const char *kName = "RmsnormConfig", *kKernel = "RmsnormKernel", *kHeader = "norm/gpu/rmsnorm_kernel.cuh";

  DType input = DType::bf16;  // of the residual too
  DType weight = DType::bf16;
  DType output = DType::bf16;
  bool residual = false;          // fused add
  int32_t vec = 8;                // elements of a load
  int32_t vecs = 2;               // loads that a thread keeps of a row; 0: it keeps none and reads the row twice
  int32_t threads_per_row = 256;  // a power of two
  int32_t rows_per_block = 1;     // side by side

  /// Threads of an SM that the kernel leaves registers for. That many are launched, and take their next rows in turn.
  FLASHINFER_HOST_DEVICE constexpr int threads_per_sm() const {
    auto words = [this](DType dtype) { return max(vec * size_of(dtype) / 4, 1); };
    const int next_row = words(input) * (residual ? 2 : 1), addresses = 1;
    return vecs * (vec + next_row + words(weight) + addresses) <= 34 ? 1024 : 512;  // of 64 registers; more of them spill
  }

  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("weight", weight), f("output", output), f("residual", residual);
    f("vec", vec), f("vecs", vecs), f("threads_per_row", threads_per_row), f("rows_per_block", rows_per_block);
  }
};

}  // namespace flashinfer
