// Host only. What ops on rows ask of a tensor: where its rows begin and how wide its vectors may be.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/core/math.hpp>
#include <flashinfer/core/rows.hpp>

namespace flashinfer {

inline int64_t num_rows_of(const TensorView& t) {
  int64_t count = 1;
  for (int i = 0; i < t.ndim - 1; ++i) count *= t.shape[i];
  return count;
}

/// The rows of a tensor of one dimension or more. Fails where more than two leading dimensions remain after merging.
inline Rows rows_of(const Check& check, const char* argument, const TensorView& t) {
  check.in_range(argument, num_rows_of(t), int64_t(0), int64_t(INT32_MAX));
  int64_t extent[2] = {1, 1}, stride[2] = {0, 0};  // inner, outer
  int count = 0;
  for (int i = t.ndim - 2; i >= 0; --i) {
    if (t.shape[i] == 1) continue;
    if (count > 0 && t.strides[i] == stride[count - 1] * extent[count - 1]) {
      extent[count - 1] *= t.shape[i];
      continue;
    }
    if (count == 2)
      check.fail(argument, "leading dimensions that merge into two", "shape " + shape_of(t) + " with strides " + strides_of(t));
    extent[count] = t.shape[i];
    stride[count] = t.strides[i];
    ++count;
  }
  if (count < 2) return {1, stride[0], 0};
  return {int32_t(extent[0]), stride[1], stride[0]};
}

/// Halves `width` until a row is a whole number of vectors of that many elements, each aligned for one load of up to 16 bytes.
inline int aligned_width(int width, const TensorView& t) {
  for (; width > 1; width /= 2) {
    const int64_t bytes = min(16, width * size_of(t.dtype));
    bool aligned = uintptr_t(t.data) % uintptr_t(bytes) == 0 && t.size(-1) % width == 0;
    for (int i = 0; i < t.ndim - 1; ++i) aligned &= t.shape[i] == 1 || t.strides[i] * size_of(t.dtype) % bytes == 0;
    if (aligned) break;
  }
  return width;
}

}  // namespace flashinfer
