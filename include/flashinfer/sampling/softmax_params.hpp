// What host and device share of softmax over the vocabulary: the arguments of one launch.
//
//   output = f / Z with f of sampling_params.hpp, Z the row's mass. A row with a NaN is NaN, one of -inf's is 0. Temperature not
//   above 0: one-hot at the first element of the order.
#pragma once

#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer {

struct SoftmaxParams {
  const void* input = nullptr;  // [num_rows, vocab_size] logits
  float* output = nullptr;      // [num_rows, vocab_size]; may be the input where that is f32
  int64_t input_stride = 0, output_stride = 0;
  int64_t num_rows = 0;
  int32_t vocab_size = 0;
  RowParam<float> temperature{nullptr, 1.0f};
};

}  // namespace flashinfer
