// The rows of a tensor whose last dimension is dense: all other dimensions in order, as one index.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer {

/// Where row r begins. Leading dimensions are merged where their strides allow it, and at most two remain (core/rows_of.hpp).
struct Rows {
  int64_t inner = 1;  // extent of the inner one of the two; 1 where one dimension is enough
  int64_t outer_stride = 0, inner_stride = 0;  // in elements

  FLASHINFER_HOST_DEVICE constexpr int64_t offset(int64_t row) const {
    if (inner == 1) return row * outer_stride;
    // A 64-bit division takes a GPU some 70 instructions; hardly a tensor needs it.
    if ((row | inner) >> 32 == 0) {
      const uint32_t outer = uint32_t(row) / uint32_t(inner);
      return int64_t(outer) * outer_stride + int64_t(uint32_t(row) - outer * uint32_t(inner)) * inner_stride;
    }
    return row / inner * outer_stride + row % inner * inner_stride;
  }
};

}  // namespace flashinfer
