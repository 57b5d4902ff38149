// The gated activations of feed-forward layers: output = activation(gate) * up, computed in float.
//
//   input   [..., 2 * dim]   f32, f16 or bf16: the gate, then up
//   output  [..., dim]       input's dtype
//
// Any number of leading dimensions whose strides merge into two; the innermost stride is 1. The output lies apart from the input,
// or is the gate's half of it, or up's: the same view of it, element for element.
#pragma once

#include <flashinfer/activation/cpu/act_and_mul.hpp>
#include <flashinfer/activation/gpu/act_and_mul.hpp>
#include <flashinfer/core/check.hpp>
#include <flashinfer/core/rows_of.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer {

namespace detail {

inline void act_and_mul(const char* op, Activation activation, const TensorView& input, const TensorView& output, const Context& context) {
  const Check check(op);
  check.rank("input", input, 1, kMaxDims);
  check.dtype("input", input, {DType::f32, DType::f16, DType::bf16});
  check.that(input.size(-1) % 2 == 0, "input", "an even last dimension, gate and up", [&] { return "shape " + shape_of(input); });
  check.inner_stride("input", input);
  check.device("input", input, context.device);
  TensorView gate = input, up = input;
  gate.shape[input.ndim - 1] = up.shape[input.ndim - 1] = input.size(-1) / 2;
  up.data = input.as<char>() + gate.size(-1) * size_of(input.dtype);
  check.same_shape("out", output, "half of input", gate);
  check.dtype("out", output, input.dtype);
  check.inner_stride("out", output);
  check.writable("out", output);
  check.device("out", output, context.device);
  check.that(!overlap(output, input) || same_memory(output, gate) || same_memory(output, up), "out",
             "half of input itself or memory of its own", "memory that overlaps input");
  if (output.numel() == 0) return;

  ActAndMulParams params;
  params.input = input.data;
  params.input_rows = rows_of(check, "input", input);
  params.output = output.data;
  params.output_rows = rows_of(check, "out", output);
  params.num_rows = num_rows_of(output);
  params.dim = output.size(-1);

  if (context.device.type == DeviceType::cpu) return cpu::act_and_mul(params, activation, input.dtype);
  int vec = 16 / size_of(input.dtype);
  for (const TensorView& t : {gate, up, output}) vec = aligned_width(vec, t);
  gpu::act_and_mul(params, {activation, input.dtype, vec, params.num_rows, params.dim}, context);
}

}  // namespace detail

/// output = silu(gate) * up, silu(x) = x / (1 + e^-x).
inline void silu_and_mul(const TensorView& input, const TensorView& output, const Context& context = {}) {
  detail::act_and_mul("silu_and_mul", Activation::silu, input, output, context);
}

/// output = gelu(gate) * up, gelu(x) = x (1 + erf(x / sqrt(2))) / 2.
inline void gelu_and_mul(const TensorView& input, const TensorView& output, const Context& context = {}) {
  detail::act_and_mul("gelu_and_mul", Activation::gelu, input, output, context);
}

/// output = gelu(gate) * up with gelu's approximation x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
inline void gelu_tanh_and_mul(const TensorView& input, const TensorView& output, const Context& context = {}) {
  detail::act_and_mul("gelu_tanh_and_mul", Activation::gelu_tanh, input, output, context);
}

}  // namespace flashinfer
