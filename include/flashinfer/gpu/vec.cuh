// N elements of a tensor in registers: aligned loads and stores of up to 16 bytes an instruction, and conversion of the
// whole vector to and from float with the hardware's instructions.
#pragma once

#include <flashinfer/gpu/ptx/convert.cuh>
#include <flashinfer/gpu/ptx/store.cuh>

namespace flashinfer::gpu {

/// A pair of elements to float and back. The pair lies in the low bits of a word, first element lowest.
template <class T>
FLASHINFER_DEVICE ptx::FloatPair unpack2(uint32_t pair) {
  if constexpr (is_same_v<T, f16>) {
    return ptx::float_from_f16x2(pair);
  } else if constexpr (is_same_v<T, bf16>) {
    return ptx::float_from_bf16x2(pair);
  } else if constexpr (is_same_v<T, e4m3>) {
    return ptx::float_from_f16x2(ptx::f16x2_from_e4m3x2(uint16_t(pair)));
  } else {
    static_assert(is_same_v<T, e5m2>);
    return ptx::float_from_f16x2(ptx::f16x2_from_e5m2x2(uint16_t(pair)));
  }
}
template <class T>
FLASHINFER_DEVICE uint32_t pack2(float x, float y) {
  if constexpr (is_same_v<T, f16>) {
    return ptx::f16x2_from_float(x, y);
  } else if constexpr (is_same_v<T, bf16>) {
    return ptx::bf16x2_from_float(x, y);
  } else if constexpr (is_same_v<T, e4m3>) {
    return ptx::e4m3x2_from_float(x, y);
  } else {
    static_assert(is_same_v<T, e5m2>);
    return ptx::e5m2x2_from_float(x, y);
  }
}

/// One element: for tails and scalars.
template <class T>
FLASHINFER_DEVICE float load_float(const T* p) {
  if constexpr (is_same_v<T, float>) {
    return *p;
  } else {
    return unpack2<T>(p->bits).x;
  }
}
template <class T>
FLASHINFER_DEVICE void store_float(T* p, float value) {
  if constexpr (is_same_v<T, float>) {
    *p = value;
  } else {
    p->bits = decltype(p->bits)(pack2<T>(value, 0.0f));
  }
}

template <class T, int N>
struct Vec {
  static constexpr int kBytes = N * int(sizeof(T));
  static_assert(kBytes == 1 || kBytes == 2 || kBytes == 4 || kBytes == 8 || kBytes % 16 == 0,
                "a power of two up to 16 bytes, or a multiple of 16");
  /// What load and store require of the address.
  static constexpr int kAlignment = kBytes < 16 ? kBytes : 16;

  uint32_t words[(kBytes + 3) / 4];

  /// `p` is aligned to kAlignment.
  static FLASHINFER_DEVICE Vec load(const T* p) {
    return load_by(p, [](const auto* q) { return *q; });
  }
  /// Data that no kernel of this launch chain writes (weights): through the read-only cache.
  static FLASHINFER_DEVICE Vec load_constant(const T* p) {
    return load_by(p, [](const auto* q) { return __ldg(q); });
  }
  /// Data read once: first to leave the caches.
  static FLASHINFER_DEVICE Vec load_once(const T* p) {
    return load_by(p, [](const auto* q) { return __ldcs(q); });
  }
  FLASHINFER_DEVICE void store(T* p) const {
    if constexpr (kBytes >= 16) {
#pragma unroll
      for (int i = 0; i < kBytes / 16; ++i)
        reinterpret_cast<uint4*>(p)[i] = make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
    } else if constexpr (kBytes == 8) {
      *reinterpret_cast<uint2*>(p) = make_uint2(words[0], words[1]);
    } else if constexpr (kBytes == 4) {
      *reinterpret_cast<unsigned int*>(p) = words[0];
    } else if constexpr (kBytes == 2) {
      *reinterpret_cast<unsigned short*>(p) = static_cast<unsigned short>(words[0]);
    } else {
      *reinterpret_cast<unsigned char*>(p) = static_cast<unsigned char>(words[0]);
    }
  }

  /// To global memory, by one instruction for 16 bytes or less (ptx/store.cuh).
  FLASHINFER_DEVICE void store_global(T* p) const {
    if constexpr (kBytes >= 16) {
#pragma unroll
      for (int i = 0; i < kBytes / 16; ++i)
        ptx::store_global(reinterpret_cast<uint4*>(p) + i, words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
    } else if constexpr (kBytes == 8) {
      ptx::store_global(p, words[0], words[1]);
    } else {
      store(p);
    }
  }

  /// Element i, which is not known to the compiler, of 16 bytes: by choices, for registers have no addresses.
  FLASHINFER_DEVICE float at(int i) const {
    static_assert(kBytes == 16 && sizeof(T) >= 2);
    const int byte = i * int(sizeof(T));
    const uint32_t low = byte & 4 ? words[1] : words[0], high = byte & 4 ? words[3] : words[2], word = byte & 8 ? high : low;
    if constexpr (sizeof(T) == 4) {
      return bit_cast<float>(word);
    } else {
      return unpack2<T>(word >> (byte & 3) * 8).x;
    }
  }

  FLASHINFER_DEVICE void to_float(float (&out)[N]) const {
    if constexpr (is_same_v<T, float>) {
#pragma unroll
      for (int i = 0; i < N; ++i) out[i] = bit_cast<float>(words[i]);
    } else if constexpr (N == 1) {
      out[0] = unpack2<T>(words[0]).x;
    } else {
#pragma unroll
      for (int i = 0; i < N; i += 2) {
        const ptx::FloatPair pair = unpack2<T>(pair_at(i));
        out[i] = pair.x;
        out[i + 1] = pair.y;
      }
    }
  }
  /// Rounds to nearest even; FP8 saturates.
  static FLASHINFER_DEVICE Vec from_float(const float (&in)[N]) {
    Vec v;
    if constexpr (is_same_v<T, float>) {
#pragma unroll
      for (int i = 0; i < N; ++i) v.words[i] = bit_cast<uint32_t>(in[i]);
    } else if constexpr (N == 1) {
      v.words[0] = pack2<T>(in[0], 0.0f);
    } else if constexpr (sizeof(T) == 2) {
#pragma unroll
      for (int i = 0; i < N; i += 2) v.words[i / 2] = pack2<T>(in[i], in[i + 1]);
    } else if constexpr (N == 2) {
      v.words[0] = pack2<T>(in[0], in[1]);
    } else {
#pragma unroll
      for (int i = 0; i < N; i += 4) v.words[i / 4] = pack2<T>(in[i], in[i + 1]) | pack2<T>(in[i + 2], in[i + 3]) << 16;
    }
    return v;
  }
  static FLASHINFER_DEVICE Vec zero() {
    Vec v;
#pragma unroll
    for (uint32_t& word : v.words) word = 0;
    return v;
  }

 private:
  FLASHINFER_DEVICE uint32_t pair_at(int i) const {
    if constexpr (sizeof(T) == 2) {
      return words[i / 2];
    } else {
      return (words[i / 4] >> (i % 4 * 8)) & 0xffffu;
    }
  }
  template <class Load>
  static FLASHINFER_DEVICE Vec load_by(const T* p, const Load& load) {
    Vec v;
    if constexpr (kBytes >= 16) {
#pragma unroll
      for (int i = 0; i < kBytes / 16; ++i) {
        const uint4 word = load(reinterpret_cast<const uint4*>(p) + i);
        v.words[4 * i] = word.x, v.words[4 * i + 1] = word.y, v.words[4 * i + 2] = word.z, v.words[4 * i + 3] = word.w;
      }
    } else if constexpr (kBytes == 8) {
      const uint2 word = load(reinterpret_cast<const uint2*>(p));
      v.words[0] = word.x, v.words[1] = word.y;
    } else if constexpr (kBytes == 4) {
      v.words[0] = load(reinterpret_cast<const unsigned int*>(p));
    } else if constexpr (kBytes == 2) {
      v.words[0] = load(reinterpret_cast<const unsigned short*>(p));
    } else {
      v.words[0] = load(reinterpret_cast<const unsigned char*>(p));
    }
    return v;
  }
};

}  // namespace flashinfer::gpu
