// Host only. The scale that a quantising op divides by: a number, or one in memory on the op's device, read when the kernel runs.
#pragma once

#include <flashinfer/core/check.hpp>

namespace flashinfer {

struct QuantScale {
  float value = 1;
  TensorView tensor;  // f32, one element; if given, `value` does not count

  QuantScale(float value) : value(value) {}
  QuantScale(const TensorView& tensor) : tensor(tensor) {}

  void check(const Check& check, Device device) const {
    if (!tensor) return check.positive("scale", value);
    check.that(tensor.ndim == 0 || (tensor.ndim == 1 && tensor.shape[0] == 1), "scale", "scale must be a scalar tensor or shape (1,)",
               [&] { return "shape " + shape_of(tensor); });
    check.dtype("scale", tensor, DType::f32);
    check.device("scale", tensor, device);
  }
};

}  // namespace flashinfer
