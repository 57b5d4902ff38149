// The rows of a tensor whose last dimension is dense: all other dimensions in order, as one index.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer {

/// Where row r begins. Leading dimensions are merged where their strides allow it, and at most two remain (core/rows_of.hpp).
/// Rows are fewer than 2^31, offsets have 64 bits.
struct Rows {
  int32_t inner = 1;                           // extent of the inner one of the two; 1 where one dimension is enough
  int64_t outer_stride = 0, inner_stride = 0;  // in elements

  FLASHINFER_HOST_DEVICE constexpr int64_t offset(int64_t row) const {
    if (inner == 1) return row * outer_stride;
    const uint32_t outer = uint32_t(row) / uint32_t(inner);  // in 64 bits a division would take a GPU some 70 instructions
    return outer * outer_stride + (row - int64_t(outer) * inner) * inner_stride;
  }
};

}  // namespace flashinfer
