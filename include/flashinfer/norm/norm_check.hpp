// Host only. What rmsnorm and layernorm demand alike of their arguments.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/norm/quant_scale.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::detail {

inline void check_norm_input(const Check& check, const TensorView& input, Device device) {
  check.rank("input", input, 2, 3);
  check.dtype("input", input, {DType::f32, DType::f16, DType::bf16});
  check.inner_stride("input", input);
  check.device("input", input, device);
  check.in_range("input", input.size(-1), int64_t(0), int64_t(INT32_MAX));
}

/// A vector that rows are multiplied by, or that is added to them.
inline void check_norm_weight(const Check& check, const char* argument, const TensorView& weight, const TensorView& input, Device device) {
  check.shape(argument, weight, {{"hidden_size", input.size(-1)}});
  check.dtype(argument, weight, {input.dtype, DType::f32});
  check.inner_stride(argument, weight);
  check.device(argument, weight, device);
}

/// `scale` is null where the output is of input's dtype.
inline void check_norm_output(const Check& check, const TensorView& output, const TensorView& input, const QuantScale* scale,
                              Device device) {
  check.same_shape("out", output, "input", input);
  if (scale)
    check.dtype("out", output, {DType::e4m3, DType::e5m2});
  else
    check.dtype("out", output, input.dtype);
  check.inner_stride("out", output);
  check.writable("out", output);
  check.device("out", output, device);
  check.that(same_memory(input, output) || !overlap(input, output), "out", "input itself or memory of its own",
             "memory that overlaps input");
  if (scale) {
    scale->check(check, device);
    check.that(!scale->tensor || !overlap(scale->tensor, output), "out", "memory of its own", "memory that scale lies in");
  }
}

inline void check_eps(const Check& check, float eps) {
  check.that(eps >= 0, "eps", "a number from 0 up", [&] { return std::to_string(eps); });
}

}  // namespace flashinfer::detail
