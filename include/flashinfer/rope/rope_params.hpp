// What both back ends share of RoPE (rotary position embedding): angles, tensors, and the config of the kernel.
//
// An angle is position * frequency, and only its fraction of a turn matters. Frequencies are 64-bit fixed-point fractions of
// a turn, so the integer product drops whole turns exactly, at any position: the error stays below 2e-9 radians, where a
// float product is off by 0.06 at position 10^6.
#pragma once

#include <flashinfer/core/dtype.hpp>
#include <flashinfer/core/math.hpp>

namespace flashinfer {

inline constexpr int kMaxRotaryDim = 512;

struct CosSin {
  float cos, sin;
};

/// Of a fraction of a turn: 2^32 is a whole one. Off by at most 1.3e-7.
FLASHINFER_HOST_DEVICE constexpr CosSin cos_sin_of_turn(uint32_t turn) {
  const uint32_t quarter = (turn + 0x20000000u) >> 30;                                  // the nearest of 0, 1/4, 1/2, 3/4
  const float x = float(int32_t(turn - (quarter << 30))) * 1.46291807926715968105e-9f;  // 2 pi / 2^32; |x| <= pi / 4
  const float xx = x * x;
  // Minimax polynomials of sin and cos on [-pi/4, pi/4] (Cephes).
  const float s = x + x * xx * (-1.6666654611e-1f + xx * (8.3321608736e-3f + xx * -1.9515295891e-4f));
  const float c = 1.0f - 0.5f * xx + xx * xx * (4.166664568298827e-2f + xx * (-1.388731625493765e-3f + xx * 2.443315711809948e-5f));
  const bool swap = quarter & 1;
  const uint32_t cos_bits = bit_cast<uint32_t>(swap ? s : c) ^ ((quarter + 1) & 2) << 30;
  const uint32_t sin_bits = bit_cast<uint32_t>(swap ? c : s) ^ (quarter & 2) << 30;
  return {bit_cast<float>(cos_bits), bit_cast<float>(sin_bits)};
}

/// `frequency` in turns of 2^64 per position; negative positions turn backwards.
FLASHINFER_HOST_DEVICE constexpr CosSin cos_sin_of(int64_t position, uint64_t frequency) {
  return cos_sin_of_turn(uint32_t(uint64_t(position) * frequency >> 32));
}

/// Queries or keys, [num_tokens, num_heads, head_dim] with any strides but a dense last dimension. `out` may be `in`.
struct RopeTensor {
  const void* in = nullptr;
  void* out = nullptr;
  int64_t in_stride_token = 0, in_stride_head = 0;
  int64_t out_stride_token = 0, out_stride_head = 0;
  int32_t num_heads = 0;
};

struct RopeParams {
  RopeTensor q, k;
  int32_t num_tokens = 0;
  // RopeAngle::offsets: token indptr[r] + i of request r is at position offsets[r] + i; tokens of no request are not rotated.
  int32_t batch_size = 0;
  const void* indptr = nullptr;     // [batch_size + 1]
  const void* offsets = nullptr;    // [batch_size]
  const void* positions = nullptr;  // [num_tokens], else
  // RopeAngle::cache: row p is cos of position p's angles, then sin. Tokens at positions outside are not rotated.
  const void* cache = nullptr;  // [cache_len, rotary_dim]
  int64_t cache_stride = 0, cache_len = 0;
};

/// Kernels that compute angles need their frequencies too: 2 KB that the others need not be launched with.
struct RopeFrequencyParams : RopeParams {
  uint64_t frequency[kMaxRotaryDim / 2] = {};
};

/// Where a token's angles come from.
enum class RopeAngle : uint8_t { offsets, positions, cache };
constexpr const char* type_name(RopeAngle) { return "RopeAngle"; }

struct RopeConfig {
  DType dtype = DType::bf16;
  int head_dim = 128, rotary_dim = 128;
  int vec = 8;              // elements of a load; divides rotary_dim / 2 and head_dim - rotary_dim
  bool interleave = false;  // pairs are (2i, 2i + 1); else (i, i + rotary_dim / 2)
  RopeAngle angle = RopeAngle::positions;
  DType index = DType::i32;  // of indptr, offsets, positions
  DType cache = DType::f32;
  int tokens = 1;  // of a block

  static constexpr const char* kName = "RopeConfig";
  static constexpr const char* kKernel = "RopeKernel";
  static constexpr const char* kHeader = "rope/gpu/rope_kernel.cuh";
  template <class F>
  FLASHINFER_HOST_DEVICE constexpr void for_each_field(F&& f) const {
    f("dtype", dtype), f("head_dim", head_dim), f("rotary_dim", rotary_dim), f("vec", vec), f("interleave", interleave), f("angle", angle),
        f("index", index), f("cache", cache), f("tokens", tokens);
  }
  /// Threads that rotate one head: each holds `vec` pairs.
  constexpr int threads_per_head() const { return rotary_dim / 2 / vec; }
  /// Heads of a token that a block rotates at a time.
  constexpr int heads() const { return max(256 / (threads_per_head() * tokens), 1); }
};

}  // namespace flashinfer
