// Element types of tensors, as a value: a config field, a cache key, an error text.
#pragma once

#include <flashinfer/core/std.hpp>

namespace flashinfer {

enum class DType : uint8_t { f32, f16, bf16, e4m3, e5m2, f64, i32, i64, i8, u8, boolean };

/// Bytes of one element.
FLASHINFER_HOST_DEVICE constexpr int size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    default: return 1;
  }
}

/// The enumerator's own spelling, as C++ source and error texts write it.
FLASHINFER_HOST_DEVICE constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return "f32";
    case DType::f16: return "f16";
    case DType::bf16: return "bf16";
    case DType::e4m3: return "e4m3";
    case DType::e5m2: return "e5m2";
    case DType::f64: return "f64";
    case DType::i32: return "i32";
    case DType::i64: return "i64";
    case DType::i8: return "i8";
    case DType::u8: return "u8";
    case DType::boolean: return "boolean";
  }
  return "?";
}

FLASHINFER_HOST_DEVICE constexpr bool is_float8(DType dtype) { return dtype == DType::e4m3 || dtype == DType::e5m2; }
FLASHINFER_HOST_DEVICE constexpr bool is_float16(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; }

}  // namespace flashinfer
