// Rotary position embedding inside attention: NeoX halves over the whole head dimension, applied to rows of q and k in shared memory.
// angle = position * rcp_scale * theta^(-2i / head_dim). Angles are kept in turns with twice a float's precision, so that they are as
// good at position 10^6 as at 1.
#pragma once

#include <flashinfer/attention/gpu/attention_tile.cuh>

namespace flashinfer::gpu {

template <AttentionConfig kConfig>
struct Rope {
  using Tile = AttentionTile<kConfig>;
  using Operand = typename Tile::Operand;
  static constexpr int kHalf = kConfig.head_dim_qk / 2;
  static constexpr int kVecs = kHalf / 4;  // a thread rotates four pairs at a time

  /// Turns per position of every pair, as the sum of two floats.
  struct Frequency {
    float high, low;
  };
  static FLASHINFER_DEVICE Frequency* table() { return reinterpret_cast<Frequency*>(dynamic_smem() + Tile::kSmem.rope); }

  /// Once a block; a barrier must follow. Double precision is slow on most GPUs, but these are few.
  static FLASHINFER_DEVICE void make_table(const VariantParams& variant) {
    for (int i = int(threadIdx.x); i < kHalf; i += Tile::kThreads) {
      const double turns = exp2(double(variant.rope_log2_theta) * (-2.0 * i / kConfig.head_dim_qk)) * double(variant.rope_rcp_scale) *
                           0.15915494309189533577;
      const float high = float(turns);
      table()[i] = {high, float(turns - double(high))};
    }
  }

  /// Rotates kRows rows, shared by kGroup threads. position(row) is the row's.
  template <int kRows, int kPitch, int kGroup, class Position>
  static FLASHINFER_DEVICE void rotate(int thread, unsigned char* smem, const Position& position) {
    for (int i = thread; i < kRows * kVecs; i += kGroup) {
      const int row = i / kVecs, first = i % kVecs * 4;
      Operand* x = reinterpret_cast<Operand*>(smem + row * kPitch) + first;
      float a[4], b[4];
      Vec<Operand, 4>::load(x).to_float(a);
      Vec<Operand, 4>::load(x + kHalf).to_float(b);
      const float at = float(position(row));
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Frequency f = table()[first + j];
        const float turns = at * f.high, rest = fmaf(at, f.high, -turns) + at * f.low;
        float sine, cosine;
        sincospif(2.0f * ((turns - rintf(turns)) + rest), &sine, &cosine);
        const float rotated = a[j] * cosine - b[j] * sine;
        b[j] = b[j] * cosine + a[j] * sine;
        a[j] = rotated;
      }
      Vec<Operand, 4>::from_float(a).store(x);
      Vec<Operand, 4>::from_float(b).store(x + kHalf);
    }
  }
};

}  // namespace flashinfer::gpu
