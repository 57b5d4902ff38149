// Host only. RoPE on the CPU: a token's sines once, then all its heads.
#pragma once

#include <algorithm>
#include <cstring>

#include <flashinfer/cpu/isa.hpp>
#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/rope/rope_params.hpp>

namespace flashinfer::cpu {

struct RopeShape {
  int64_t head_dim, half;
  bool interleave;
};

/// One head; `out` may be `in`.
template <class V, class T>
void rotate_head(const T* in, T* out, const RopeShape& shape, const float* cos, const float* sin) {
  const int64_t half = shape.half;
  if (shape.interleave) {
    float x[kMaxRotaryDim];
    int64_t i = 0;
    for (; i + V::kLanes <= 2 * half; i += V::kLanes) V::store(x + i, V::load(in + i));
    for (; i < 2 * half; ++i) x[i] = to_float(in[i]);
    for (int64_t pair = 0; pair < half; ++pair) {
      const float a = x[2 * pair], b = x[2 * pair + 1];
      x[2 * pair] = a * cos[pair] - b * sin[pair];
      x[2 * pair + 1] = b * cos[pair] + a * sin[pair];
    }
    for (i = 0; i + V::kLanes <= 2 * half; i += V::kLanes) V::store(out + i, V::load(x + i));
    if (i < 2 * half) V::store(out + i, V::load(x + i, int(2 * half - i)), int(2 * half - i));
  } else {
    int64_t i = 0;
    for (; i + V::kLanes <= half; i += V::kLanes) {
      const auto a = V::load(in + i), b = V::load(in + half + i), c = V::load(cos + i), s = V::load(sin + i);
      V::store(out + i, a * c - b * s);
      V::store(out + half + i, V::fma(b, c, a * s));
    }
    if (const int rest = int(half - i); rest > 0) {
      const auto a = V::load(in + i, rest), b = V::load(in + half + i, rest), c = V::load(cos + i, rest), s = V::load(sin + i, rest);
      V::store(out + i, a * c - b * s, rest);
      V::store(out + half + i, V::fma(b, c, a * s), rest);
    }
  }
  if (in != out) std::copy(in + 2 * half, in + shape.head_dim, out + 2 * half);
}

template <class V, class T>
void rotate_heads(const RopeTensor& x, int64_t token, const RopeShape& shape, const float* cos, const float* sin) {
  const T* in = static_cast<const T*>(x.in) + token * x.in_stride_token;
  T* out = static_cast<T*>(x.out) + token * x.out_stride_token;
  for (int32_t head = 0; head < x.num_heads; ++head)
    rotate_head<V>(in + head * x.in_stride_head, out + head * x.out_stride_head, shape, cos, sin);
}

template <class Index>
int64_t rope_position(const RopeParams& p, RopeAngle angle, int64_t token) {
  if (angle != RopeAngle::offsets) return static_cast<const Index*>(p.positions)[token];
  const auto* indptr = static_cast<const Index*>(p.indptr);
  const int64_t request = std::upper_bound(indptr, indptr + p.batch_size + 1, Index(token)) - indptr - 1;
  if (request < 0 || request >= p.batch_size) return 0;
  return int64_t(static_cast<const Index*>(p.offsets)[request]) + token - indptr[request];
}

template <class T, class Index, class Cache>
void rope(const RopeFrequencyParams& p, const RopeShape& shape, RopeAngle angle) {
  const int64_t elements = max(int64_t(p.q.num_heads + p.k.num_heads) * shape.head_dim, int64_t(1));
  parallel_for(p.num_tokens, max(16384 / elements, int64_t(1)), [&](int64_t begin, int64_t end) {
    dispatch_isa([&](auto isa) {
      using V = decltype(isa);
      float cos[kMaxRotaryDim / 2], sin[kMaxRotaryDim / 2];
      for (int64_t token = begin; token < end; ++token) {
        const int64_t position = rope_position<Index>(p, angle, token);
        if (angle == RopeAngle::cache) {
          const Cache* row = static_cast<const Cache*>(p.cache) + position * p.cache_stride;
          for (int64_t i = 0; i < shape.half; ++i) cos[i] = to_float(row[i]), sin[i] = to_float(row[shape.half + i]);
        } else {
          for (int64_t i = 0; i < shape.half; ++i) {
            const CosSin turned = cos_sin_of(position, p.frequency[i]);
            cos[i] = turned.cos, sin[i] = turned.sin;
          }
        }
        rotate_heads<V, T>(p.q, token, shape, cos, sin);
        rotate_heads<V, T>(p.k, token, shape, cos, sin);
      }
    });
  });
}

template <class T, class Index>
void rope(const RopeFrequencyParams& p, const RopeShape& shape, RopeAngle angle, DType cache) {
  if (cache == DType::f16)
    rope<T, Index, f16>(p, shape, angle);
  else if (cache == DType::bf16)
    rope<T, Index, bf16>(p, shape, angle);
  else
    rope<T, Index, float>(p, shape, angle);
}

template <class T>
void rope(const RopeFrequencyParams& p, const RopeShape& shape, RopeAngle angle, DType index, DType cache) {
  if (index == DType::i32)
    rope<T, int32_t>(p, shape, angle, cache);
  else
    rope<T, int64_t>(p, shape, angle, cache);
}

}  // namespace flashinfer::cpu
