// Host only. The gated activations on the CPU. Bound by memory for silu; gelu's error function takes as long as its loads.
#pragma once

#include <type_traits>

#include <flashinfer/activation/act_and_mul_params.hpp>
#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/dispatch_dtype.hpp>
#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/cpu/vec.hpp>

namespace flashinfer::cpu {

template <class Isa, Activation kActivation>
FLASHINFER_INLINE inline typename Isa::F activate(const typename Isa::F& x) {
  if constexpr (kActivation == Activation::silu) return x / (Isa::set(1) + exp<Isa>(Isa::set(0) - x));
  if constexpr (kActivation == Activation::gelu) return x * normal_cdf<Isa>(x);
  if constexpr (kActivation == Activation::gelu_tanh) {
    const typename Isa::F cubic = Isa::fma(x * x * Isa::set(kGeluTanhCubic), x, x);
    return x / (Isa::set(1) + exp<Isa>(Isa::set(-kGeluTanh) * cubic));
  }
}

template <class Isa, Activation kActivation, class T>
FLASHINFER_INLINE inline void act_and_mul_row(const T* gate, const T* up, T* output, int64_t dim) {
  for_each_vec<Isa>(dim, [&](int64_t i, auto... count) FLASHINFER_INLINE {
    Isa::store(output + i, activate<Isa, kActivation>(Isa::load(gate + i, count...)) * Isa::load(up + i, count...), count...);
  });
}

template <class F>
void dispatch_activation(Activation activation, const F& f) {
  switch (activation) {
    case Activation::silu: return f(std::integral_constant<Activation, Activation::silu>{});
    case Activation::gelu: return f(std::integral_constant<Activation, Activation::gelu>{});
    case Activation::gelu_tanh: return f(std::integral_constant<Activation, Activation::gelu_tanh>{});
  }
}

inline void act_and_mul(const ActAndMulParams& p, Activation activation, DType dtype) {
  // A thread takes pieces of rows, so that one long row is shared too.
  constexpr int64_t kPiece = 4096;
  const int64_t pieces = (p.dim + kPiece - 1) / kPiece, grain = 8192 / (p.dim < kPiece ? p.dim : kPiece) + 1;
  dispatch_dtype<DType::f32, DType::f16, DType::bf16>(dtype, [&]<class T>(T) {
    dispatch_activation(activation, [&](auto kActivation) {
      parallel_for(p.num_rows * pieces, grain, [&](int64_t begin, int64_t end) {
        dispatch_isa([&]<class Isa>(Isa) FLASHINFER_INLINE {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t row = i / pieces, at = i % pieces * kPiece;
            const T* gate = static_cast<const T*>(p.input) + p.input_rows.offset(row) + at;
            T* output = static_cast<T*>(p.output) + p.output_rows.offset(row) + at;
            act_and_mul_row<Isa, kActivation>(gate, gate + p.dim, output, p.dim - at < kPiece ? p.dim - at : kPiece);
          }
        });
      });
    });
  });
}

}  // namespace flashinfer::cpu
