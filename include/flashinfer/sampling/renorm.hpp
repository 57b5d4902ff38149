// Filters whole rows: top-k and top-p of probabilities, which are renormalised, and top-k of logits, which are masked.
//
//   input   [num_rows, vocab_size]   f32, f16 or bf16
//   output  [num_rows, vocab_size]   input's dtype, or f32 for probabilities; may be the input itself where the dtypes agree
//
// What is kept, ties and NaN included, is defined in sampling_params.hpp, what is written in renorm_params.hpp.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/cpu/renorm.hpp>
#include <flashinfer/sampling/gpu/renorm.hpp>
#include <flashinfer/sampling/row_argument.hpp>

namespace flashinfer {

namespace detail {

inline void renorm(const char* op, RowValues values, const TensorView& input, const RowArgument<int32_t>& top_k,
                   const RowArgument<float>& top_p, const TensorView& output, const Context& context) {
  const Check check(op);
  const char* input_name = values == RowValues::logits ? "logits" : "probs";
  check_rows(check, input_name, input, context.device);
  check_out_rows(check, "out", output, input_name, input);
  if (values == RowValues::logits)
    check.dtype("out", output, input.dtype);
  else
    check.dtype("out", output, {input.dtype, DType::f32});
  const int64_t num_rows = input.shape[0];
  RenormParams p;
  p.top_k = top_k.param(check, "top_k", num_rows, num_rows, context.device);
  p.top_p = top_p.param(check, "top_p", num_rows, num_rows, context.device);
  check.that(top_k.value >= 0, "top_k", "a number from 1 up, or 0 for none", [&] { return std::to_string(top_k.value); });
  check.that(top_p.value >= 0, "top_p", "a number from 0 to 1", [&] { return std::to_string(top_p.value); });
  for (const TensorView& t : {top_k.tensor, top_p.tensor})
    if (t) check.that(!overlap(t, output), "out", "memory of its own", "memory that a parameter lies in");
  if (num_rows == 0) return;
  p.input = input.data;
  p.input_stride = input.strides[0];
  p.output = output.data;
  p.output_stride = output.strides[0];
  p.num_rows = num_rows;
  p.vocab_size = int32_t(input.shape[1]);
  if (context.device.type == DeviceType::cpu) return cpu::renorm(p, values, input.dtype, output.dtype);
  gpu::renorm(p, values, input.dtype, output.dtype, context);
}

}  // namespace detail

inline void top_p_renorm_probs(const TensorView& probs, const RowArgument<float>& top_p, const TensorView& output,
                               const Context& context = {}) {
  detail::renorm("top_p_renorm_probs", RowValues::probs, probs, 0, top_p, output, context);
}
inline void top_k_renorm_probs(const TensorView& probs, const RowArgument<int32_t>& top_k, const TensorView& output,
                               const Context& context = {}) {
  detail::renorm("top_k_renorm_probs", RowValues::probs, probs, top_k, 1.0f, output, context);
}
inline void top_k_mask_logits(const TensorView& logits, const RowArgument<int32_t>& top_k, const TensorView& output,
                              const Context& context = {}) {
  detail::renorm("top_k_mask_logits", RowValues::logits, logits, top_k, 1.0f, output, context);
}

}  // namespace flashinfer
