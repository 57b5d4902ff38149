// Softmax over the vocabulary, with temperature.
//
//   logits  [num_rows, vocab_size]   f32, f16 or bf16
//   output  [num_rows, vocab_size]   f32; may be the logits themselves
//
// softmax(x) = exp((x - max(x)) / temperature) / sum. A row of -inf's gives zeros, one with a NaN is NaN; see softmax_params.hpp.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/cpu/softmax.hpp>
#include <flashinfer/sampling/gpu/softmax.hpp>
#include <flashinfer/sampling/row_argument.hpp>

namespace flashinfer {

inline void softmax(const TensorView& logits, const RowArgument<float>& temperature, const TensorView& output,
                    const Context& context = {}) {
  const Check check("softmax");
  check_rows(check, "logits", logits, context.device);
  check_out_rows(check, "out", output, "logits", logits);
  check.dtype("out", output, DType::f32);
  SoftmaxParams p;
  p.temperature = temperature.param(check, "temperature", logits.shape[0], logits.shape[0], context.device);
  check.that(temperature.value >= 0, "temperature", "a number from 0 up", [&] { return std::to_string(temperature.value); });
  if (temperature.tensor) check.that(!overlap(temperature.tensor, output), "out", "memory of its own", "memory that temperature lies in");
  if (logits.shape[0] == 0) return;
  p.input = logits.data;
  p.input_stride = logits.strides[0];
  p.output = output.as<float>();
  p.output_stride = output.strides[0];
  p.num_rows = logits.shape[0];
  p.vocab_size = int32_t(logits.shape[1]);
  if (context.device.type == DeviceType::cpu) return cpu::softmax(p, logits.dtype);
  gpu::softmax(p, logits.dtype, context);
}

}  // namespace flashinfer
