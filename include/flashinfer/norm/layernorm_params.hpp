// What host and device share of LayerNorm: the arguments of one launch and the compile-time choices of its kernel.
#pragma once

#include <flashinfer/core/dtype.hpp>
#include <flashinfer/core/rows.hpp>

namespace flashinfer {

struct LayernormParams {
  const void* input = nullptr;
  const void* gamma = nullptr;
  const void* beta = nullptr;
  void* output = nullptr;
  const float* scale = nullptr;  // null: scale_value
  Rows input_rows, output_rows;
  int64_t num_rows = 0;
  int32_t hidden_size = 0;
  float eps = 0;
  float scale_value = 1;
};

/// FP8 outputs are rounded to the input's dtype, then divided by the scale; the others have none.
struct LayernormConfig {
  static constexpr const char *kName = "LayernormConfig", *kKernel = "LayernormKernel", *kHeader = "norm/gpu/layernorm_kernel.cuh";

  DType input = DType::bf16;
  DType weight = DType::f32;  // of gamma and beta
  DType output = DType::bf16;
  int32_t vec = 8;                // elements of a load
  int32_t vecs = 2;               // loads that a thread keeps of a row; 0: it keeps none and reads the row three times
  int32_t threads_per_row = 256;  // a power of two
  int32_t rows_per_block = 1;     // side by side

  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("weight", weight), f("output", output);
    f("vec", vec), f("vecs", vecs), f("threads_per_row", threads_per_row), f("rows_per_block", rows_per_block);
  }
};

}  // namespace flashinfer
