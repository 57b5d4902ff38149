// LayerNorm, with an FP8 result where asked for.
//
//   layernorm(x) = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * gamma + beta, over the last dimension, in float
//
//   input, output  [num_rows, hidden_size] or [num_tokens, num_heads, head_dim]   f32, f16 or bf16
//   gamma, beta    [hidden_size]   both input's dtype or both f32
//   scale          what an FP8 (e4m3, e5m2) output is divided by before it is rounded; results past the largest value become that value
//
// All strides but the innermost are free. The output may be the input itself; any other overlap with what is written is refused.
#pragma once

#include <flashinfer/core/rows_of.hpp>
#include <flashinfer/norm/cpu/layernorm.hpp>
#include <flashinfer/norm/gpu/layernorm.hpp>
#include <flashinfer/norm/norm_check.hpp>

namespace flashinfer {

namespace detail {

/// `scale` is null where the output is of input's dtype.
inline void layernorm(const char* op, const TensorView& input, const TensorView& gamma, const TensorView& beta, const TensorView& output,
                      const QuantScale* scale, float eps, const Context& context) {
  const Check check(op);
  check_norm_input(check, input, context.device);
  check_norm_weight(check, "gemma", gamma, input, context.device);
  check_norm_weight(check, "beta", beta, input, context.device);
  check.dtype("beta", beta, gamma.dtype);
  check_norm_output(check, output, input, scale, context.device);
  check.that(!overlap(gamma, output) && !overlap(beta, output), "out", "memory of its own", "memory that gemma or beta lies in");
  check_eps(check, eps);
  if (input.numel() == 0) return;

  LayernormParams params;
  params.input = input.data;
  params.input_rows = rows_of(check, "input", input);
  params.gamma = gamma.data;
  params.beta = beta.data;
  params.output = output.data;
  params.output_rows = rows_of(check, "out", output);
  if (scale) {
    params.scale = scale->tensor.as<const float>();
    params.scale_value = scale->value;
  }
  params.num_rows = num_rows_of(input);
  params.hidden_size = int32_t(input.size(-1));
  params.eps = eps;

  if (context.device.type == DeviceType::cpu) return cpu::layernorm(params, input.dtype, gamma.dtype, output.dtype);
  int vec = 16 / size_of(input.dtype);
  for (const TensorView& t : {input, gamma, beta, output}) vec = aligned_width(vec, t);
  gpu::layernorm(params, {input.dtype, gamma.dtype, output.dtype, vec, params.num_rows, params.hidden_size}, context);
}

}  // namespace detail

/// output = layernorm(input). The argument gamma is FlashInfer's gemma.
inline void layernorm(const TensorView& input, const TensorView& gamma, const TensorView& beta, const TensorView& output, float eps = 1e-6f,
                      const Context& context = {}) {
  detail::layernorm("layernorm", input, gamma, beta, output, nullptr, eps, context);
}

/// output = layernorm(input) / scale, in FP8, where layernorm(input) is rounded to input's dtype first: the same numbers as
/// quantising what layernorm writes.
inline void layernorm_quant(const TensorView& input, const TensorView& gamma, const TensorView& beta, const QuantScale& scale,
                            const TensorView& output, float eps = 1e-6f, const Context& context = {}) {
  detail::layernorm("layernorm_quant", input, gamma, beta, output, &scale, eps, context);
}

}  // namespace flashinfer
