// RMSNorm and its relatives: Gemma's weight + 1, the residual added first, an FP8 result. One kernel serves them all.
//
//   rmsnorm(x) = x / sqrt(mean(x^2) + eps) * weight, over the last dimension, in float
//
//   input, output  [num_rows, hidden_size] or [num_tokens, num_heads, head_dim]   f32, f16 or bf16
//   residual       as input, same dtype
//   weight         [hidden_size]   input's dtype or f32
//   scale          what an FP8 (e4m3, e5m2) output is divided by before it is rounded; results past the largest value become that value
//
// All strides but the innermost are free. The output may be the input itself; any other overlap with what is written is refused.
#pragma once

#include <flashinfer/core/rows_of.hpp>
#include <flashinfer/norm/cpu/rmsnorm.hpp>
#include <flashinfer/norm/gpu/rmsnorm.hpp>
#include <flashinfer/norm/norm_check.hpp>

namespace flashinfer {

namespace detail {

/// `scale` is null where the output is of input's dtype, `residual` where nothing is added.
inline void rmsnorm(const char* op, const TensorView& input, const TensorView* residual, const TensorView& weight, const TensorView& output,
                    const QuantScale* scale, float eps, float weight_bias, const Context& context) {
  const Check check(op);
  check_norm_input(check, input, context.device);
  check_norm_weight(check, "weight", weight, input, context.device);
  if (residual) {
    check.same_shape("residual", *residual, "input", input);
    check.dtype("residual", *residual, input.dtype);
    check.inner_stride("residual", *residual);
    check.writable("residual", *residual);
    check.device("residual", *residual, context.device);
    check.that(!overlap(*residual, input) && !overlap(*residual, weight), "residual", "memory of its own",
               "memory that input or weight lies in");
    check.that(!overlap(*residual, output), "residual", "memory of its own", "memory that the output lies in");
  }
  check_norm_output(check, output, input, scale, context.device);
  check.that(!overlap(weight, output), "out", "memory of its own", "memory that weight lies in");
  check_eps(check, eps);
  if (input.numel() == 0) return;

  RmsnormParams params;
  params.input = input.data;
  params.input_rows = rows_of(check, "input", input);
  if (residual) {
    params.residual = residual->data;
    params.residual_rows = rows_of(check, "residual", *residual);
  }
  params.weight = weight.data;
  params.output = output.data;
  params.output_rows = rows_of(check, "out", output);
  if (scale) {
    params.scale = scale->tensor.as<const float>();
    params.scale_value = scale->value;
  }
  params.num_rows = num_rows_of(input);
  params.hidden_size = int32_t(input.size(-1));
  params.eps = eps;
  params.weight_bias = weight_bias;

  if (context.device.type == DeviceType::cpu) return cpu::rmsnorm(params, input.dtype, weight.dtype, output.dtype);
  int vec = 16 / size_of(input.dtype);
  for (const TensorView& t : {input, residual ? *residual : input, weight, output}) vec = aligned_width(vec, t);
  gpu::rmsnorm(params, {input.dtype, weight.dtype, output.dtype, residual != nullptr, vec, params.num_rows, params.hidden_size}, context);
}

}  // namespace detail

/// output = rmsnorm(input).
inline void rmsnorm(const TensorView& input, const TensorView& weight, const TensorView& output, float eps = 1e-6f,
                    const Context& context = {}) {
  detail::rmsnorm("rmsnorm", input, nullptr, weight, output, nullptr, eps, 0, context);
}

/// As rmsnorm, times weight + 1.
inline void gemma_rmsnorm(const TensorView& input, const TensorView& weight, const TensorView& output, float eps = 1e-6f,
                          const Context& context = {}) {
  detail::rmsnorm("gemma_rmsnorm", input, nullptr, weight, output, nullptr, eps, 1, context);
}

/// residual += input; input = rmsnorm(residual). The norm is that of the sum in float, before it is rounded into residual.
inline void fused_add_rmsnorm(const TensorView& input, const TensorView& residual, const TensorView& weight, float eps = 1e-6f,
                              const Context& context = {}) {
  detail::rmsnorm("fused_add_rmsnorm", input, &residual, weight, input, nullptr, eps, 0, context);
}

/// As fused_add_rmsnorm, times weight + 1.
inline void gemma_fused_add_rmsnorm(const TensorView& input, const TensorView& residual, const TensorView& weight, float eps = 1e-6f,
                                    const Context& context = {}) {
  detail::rmsnorm("gemma_fused_add_rmsnorm", input, &residual, weight, input, nullptr, eps, 1, context);
}

/// output = rmsnorm(input) / scale, in FP8.
inline void rmsnorm_quant(const TensorView& input, const TensorView& weight, const QuantScale& scale, const TensorView& output,
                          float eps = 1e-6f, const Context& context = {}) {
  detail::rmsnorm("rmsnorm_quant", input, nullptr, weight, output, &scale, eps, 0, context);
}

/// residual += input; output = rmsnorm(residual) / scale, in FP8. The input keeps its values.
inline void fused_add_rmsnorm_quant(const TensorView& input, const TensorView& residual, const TensorView& weight, const QuantScale& scale,
                                    const TensorView& output, float eps = 1e-6f, const Context& context = {}) {
  detail::rmsnorm("fused_add_rmsnorm_quant", input, &residual, weight, output, &scale, eps, 0, context);
}

}  // namespace flashinfer
