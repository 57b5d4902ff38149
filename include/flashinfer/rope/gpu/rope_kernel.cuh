// RoPE: rotates pairs of every head of q and k by the token's angles, and copies what lies behind rotary_dim.
// Called by gpu/rope.hpp; twin of cpu/rope.hpp.
//
// Bound by: memory, q and k read and written once.
// Threads:  `tokens` tokens a block; of a token, groups of threads_per_head threads take every heads()-th head. A thread
//           keeps to its `vec` pairs, so their sines are computed once and serve all the heads that it visits.
// Memory:   two vectors a head and thread, two heads in flight; no shared memory.
// Sync:     none. A thread reads both members of its pairs before it writes them, so rotating in place is safe.
#pragma once

#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/vec.cuh>
#include <flashinfer/rope/rope_params.hpp>

namespace flashinfer {

template <RopeConfig kConfig>
struct RopeKernel {
  using Params = conditional_t<kConfig.angle == RopeAngle::cache, RopeParams, RopeFrequencyParams>;
  using T = number_t<kConfig.dtype>;
  using Cache = number_t<kConfig.cache>;
  using Index = conditional_t<kConfig.index == DType::i64, int64_t, int32_t>;
  static constexpr int kVec = kConfig.vec;
  static constexpr int kHalf = kConfig.rotary_dim / 2;
  static constexpr int kThreadsPerHead = kConfig.threads_per_head();
  static constexpr int kThreadsPerToken = kThreadsPerHead * kConfig.heads();
  static constexpr int kThreads = kThreadsPerToken * kConfig.tokens;
  static constexpr int kMinBlocks = max(768 / kThreads, 1);  // 80 registers
  static constexpr int kHeadsInFlight = 2;
  static_assert(kHalf % kVec == 0 && (kConfig.head_dim - kConfig.rotary_dim) % kVec == 0, "vec divides both parts of a head");
  using V = gpu::Vec<T, kVec>;

  static __device__ void run(const Params& p) {
    const int token = int(blockIdx.x) * kConfig.tokens + int(threadIdx.x) / kThreadsPerToken;
    const int group = int(threadIdx.x) % kThreadsPerToken / kThreadsPerHead;
    const int member = int(threadIdx.x) % kThreadsPerHead;
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    if (token >= p.num_tokens) return;

    CosSin angle[kVec];
    angles(p, token, member * kVec, angle);
    const int num_heads = p.q.num_heads + p.k.num_heads;
    for (int head = group; head < num_heads; head += kConfig.heads() * kHeadsInFlight) {
      V first[kHeadsInFlight], second[kHeadsInFlight];
#pragma unroll
      for (int i = 0; i < kHeadsInFlight; ++i) {
        const int h = head + i * kConfig.heads();
        if (h >= num_heads) break;
        const T* in = in_row(p, token, h);
        first[i] = V::load(in + first_column(member));
        second[i] = V::load(in + second_column(member));
      }
#pragma unroll
      for (int i = 0; i < kHeadsInFlight; ++i) {
        const int h = head + i * kConfig.heads();
        if (h >= num_heads) break;
        rotate(first[i], second[i], angle);
        T* out = out_row(p, token, h);
        first[i].store_global(out + first_column(member));
        second[i].store_global(out + second_column(member));
        if constexpr (kConfig.head_dim > kConfig.rotary_dim) copy_rest(in_row(p, token, h), out, member);
      }
    }
  }

 private:
  /// A thread's pairs lie in two vectors: a half apart, or side by side.
  static __device__ int first_column(int member) { return kConfig.interleave ? 2 * member * kVec : member * kVec; }
  static __device__ int second_column(int member) { return first_column(member) + (kConfig.interleave ? kVec : kHalf); }

  static __device__ const T* in_row(const Params& p, int64_t token, int head) {
    const bool is_q = head < p.q.num_heads;
    const RopeTensor& x = is_q ? p.q : p.k;
    return static_cast<const T*>(x.in) + token * x.in_stride_token + (is_q ? head : head - p.q.num_heads) * x.in_stride_head;
  }
  static __device__ T* out_row(const Params& p, int64_t token, int head) {
    const bool is_q = head < p.q.num_heads;
    const RopeTensor& x = is_q ? p.q : p.k;
    return static_cast<T*>(x.out) + token * x.out_stride_token + (is_q ? head : head - p.q.num_heads) * x.out_stride_head;
  }

  /// Of pairs [pair, pair + kVec).
  static __device__ void angles(const Params& p, int token, int pair, CosSin (&angle)[kVec]) {
    int64_t position = 0;
    if constexpr (kConfig.angle == RopeAngle::offsets) {
      position = ragged_position(p, token);
    } else {
      position = static_cast<const Index*>(p.positions)[token];
    }
    if constexpr (kConfig.angle == RopeAngle::cache) {
      float cos[kVec], sin[kVec];
#pragma unroll
      for (int i = 0; i < kVec; ++i) cos[i] = 1.0f, sin[i] = 0.0f;
      if (position >= 0 && position < p.cache_len) {
        const Cache* row = static_cast<const Cache*>(p.cache) + position * p.cache_stride + pair;
        gpu::Vec<Cache, kVec>::load(row).to_float(cos);
        gpu::Vec<Cache, kVec>::load(row + kHalf).to_float(sin);
      }
#pragma unroll
      for (int i = 0; i < kVec; ++i) angle[i] = {cos[i], sin[i]};
    } else {
#pragma unroll
      for (int i = 0; i < kVec; ++i) angle[i] = cos_sin_of(position, p.frequency[pair + i]);
    }
  }

  /// Position of a token by its request: the last that starts at or before it. 0 for a token behind all of them.
  static __device__ int64_t ragged_position(const Params& p, int token) {
    const Index* indptr = static_cast<const Index*>(p.indptr);
    int low = 0, high = p.batch_size;  // indptr[low] <= token < indptr[high], once it is found
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (indptr[middle] <= token ? low : high) = middle;
    }
    if (p.batch_size == 0 || token < indptr[low] || token >= indptr[low + 1]) return 0;
    return int64_t(static_cast<const Index*>(p.offsets)[low]) + (token - int64_t(indptr[low]));
  }

  static __device__ void rotate(V& first, V& second, const CosSin (&angle)[kVec]) {
    float x[kVec], y[kVec];
    first.to_float(x);
    second.to_float(y);
    if constexpr (kConfig.interleave) {
      // Pairs (0, 1), (2, 3)... of x, then of y. With one element a vector the pair is (x, y).
      if constexpr (kVec == 1) {
        turn(x[0], y[0], angle[0]);
      } else {
#pragma unroll
        for (int i = 0; i < kVec / 2; ++i) {
          turn(x[2 * i], x[2 * i + 1], angle[i]);
          turn(y[2 * i], y[2 * i + 1], angle[kVec / 2 + i]);
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kVec; ++i) turn(x[i], y[i], angle[i]);
    }
    first = V::from_float(x);
    second = V::from_float(y);
  }
  static __device__ void turn(float& x, float& y, CosSin angle) {
    const float turned = x * angle.cos - y * angle.sin;
    y = y * angle.cos + x * angle.sin;
    x = turned;
  }

  static __device__ void copy_rest(const T* in, T* out, int member) {
    if (in == out) return;
    for (int column = kConfig.rotary_dim + member * kVec; column < kConfig.head_dim; column += kThreadsPerHead * kVec)
      V::load(in + column).store_global(out + column);
  }
};

}  // namespace flashinfer
