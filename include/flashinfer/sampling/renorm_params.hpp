// What host and device share of filtering rows: the arguments of one launch. Filters are those of sampling_params.hpp, top-k first.
//
//   probs:   output = f / Z for what is kept, Z the mass of it; 0 for the rest, NaN among it. A row with nothing to weigh becomes 0.
//   logits:  output = input for what is kept, -inf for the rest, NaN among it. Without a filter (k >= vocab_size) only NaN goes.
#pragma once

#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer {

struct RenormParams {
  const void* input = nullptr;  // [num_rows, vocab_size]
  void* output = nullptr;       // [num_rows, vocab_size] of the config's output dtype; may be the input where the dtypes agree
  int64_t input_stride = 0, output_stride = 0;
  int64_t num_rows = 0;
  int32_t vocab_size = 0;
  RowParam<int32_t> top_k{nullptr, 0};
  RowParam<float> top_p{nullptr, 1.0f};
  bool mixed = false;  // GPU: rows have top_k's of their own: those that is_topk() are topk_renorm_kernel.cuh's, others renorm_kernel.cuh's
  bool beside = false;  // GPU: the launch before filters other rows of the same call (gpu/grid_order.cuh)

  FLASHINFER_HOST_DEVICE constexpr bool is_topk(int32_t k) const { return k > 0 && k <= kMostTopk && k < vocab_size; }
};

}  // namespace flashinfer
