// What both back ends share of packbits and segment_packbits: eight booleans become one byte.
#pragma once

#include <flashinfer/core/dtype.hpp>
#include <flashinfer/core/math.hpp>

namespace flashinfer {

/// Where the first of eight booleans goes: into the highest bit of the byte (NumPy's default) or the lowest.
enum class BitOrder : uint8_t { big, little };
constexpr const char* type_name(BitOrder) { return "BitOrder"; }

/// Bytes that hold `bits` booleans.
FLASHINFER_HOST_DEVICE constexpr int64_t packed_size(int64_t bits) { return ceil_div(bits, int64_t(8)); }

/// Eight booleans, one a byte and any byte but 0 true, lowest address in the lowest byte.
template <BitOrder kOrder>
FLASHINFER_HOST_DEVICE constexpr uint8_t pack8(uint64_t booleans) {
  constexpr uint64_t kLow7 = 0x7f7f7f7f7f7f7f7full;
  // A byte's top bit, then its lowest: is the byte not 0?
  const uint64_t ones = (((booleans & kLow7) + kLow7) | booleans) >> 7 & 0x0101010101010101ull;
  // The product moves bit 8i to bit 56 + i, or to 63 - i; no two of its terms meet, so nothing is carried.
  constexpr uint64_t kGather = kOrder == BitOrder::little ? 0x0102040810204080ull : 0x8040201008040201ull;
  return uint8_t(ones * kGather >> 56);
}

struct PackbitsParams {
  const uint8_t* input = nullptr;
  uint8_t* output = nullptr;
  int64_t num_bits = 0;     // elements of input, in all segments
  int64_t output_size = 0;  // bytes of output: nothing is written past it, whatever indptr says
  // Segments; one that covers the input when num_segments is 0.
  const void* indptr = nullptr;      // [num_segments + 1] of the config's dtype
  int32_t* packed_indptr = nullptr;  // [num_segments + 1], written
  int32_t num_segments = 0;
};

struct PackbitsConfig {
  BitOrder order = BitOrder::big;
  bool segments = false;
  DType indptr = DType::i32;

  static constexpr const char* kName = "PackbitsConfig";
  static constexpr const char* kKernel = "PackbitsKernel";
  static constexpr const char* kHeader = "quantization/gpu/packbits_kernel.cuh";
  template <class F>
  FLASHINFER_HOST_DEVICE constexpr void for_each_field(F&& f) const {
    f("order", order), f("segments", segments), f("indptr", indptr);
  }
};

}  // namespace flashinfer
