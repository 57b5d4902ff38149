// Host only. LayerNorm on the CPU: a pass each for the mean, the variance about it, and the result; the row stays in the cache.
#pragma once

#include <cmath>
#include <utility>

#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/dispatch_dtype.hpp>
#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/cpu/vec.hpp>
#include <flashinfer/norm/layernorm_params.hpp>

namespace flashinfer::cpu {

template <class Isa, class In, class Weight, class Out>
FLASHINFER_INLINE inline void layernorm_row(const LayernormParams& p, int64_t row) {
  using F = typename Isa::F;
  const In* input = static_cast<const In*>(p.input) + p.input_rows.offset(row);
  const Weight *gamma = static_cast<const Weight*>(p.gamma), *beta = static_cast<const Weight*>(p.beta);
  Out* output = static_cast<Out*>(p.output) + p.output_rows.offset(row);

  F sum = Isa::set(0), more = Isa::set(0);  // two chains: an addition takes four cycles
  for_each_vec<Isa>(p.hidden_size, [&](int64_t i, auto... count) FLASHINFER_INLINE {
    sum = sum + Isa::load(input + i, count...);
    std::swap(sum, more);
  });
  const F mean = Isa::set(Isa::sum(sum + more) / float(p.hidden_size));

  F squares = Isa::set(0);
  more = Isa::set(0);
  for_each_vec<Isa>(p.hidden_size, [&](int64_t i, auto... count) FLASHINFER_INLINE {
    F x = Isa::load(input + i, count...) - mean;
    if constexpr (sizeof...(count) > 0) x = Isa::select(Isa::first(count...), x, Isa::set(0));
    squares = Isa::fma(x, x, squares);
    std::swap(squares, more);
  });
  const F scale = Isa::set(1.0f / std::sqrt(Isa::sum(squares + more) / float(p.hidden_size) + p.eps));
  const F inverse_scale = Isa::set(1.0f / (p.scale ? *p.scale : p.scale_value));

  for_each_vec<Isa>(p.hidden_size, [&](int64_t i, auto... count) FLASHINFER_INLINE {
    F x = Isa::fma((Isa::load(input + i, count...) - mean) * scale, Isa::load(gamma + i, count...), Isa::load(beta + i, count...));
    if constexpr (is_float8(dtype_v<Out>)) {
      In rounded[Isa::kLanes];
      Isa::store(rounded, x);
      x = Isa::load(rounded) * inverse_scale;
    }
    Isa::store(output + i, x, count...);
  });
}

inline void layernorm(const LayernormParams& p, DType input, DType weight, DType output) {
  const int64_t grain = 16384 / p.hidden_size + 1;  // some microseconds of work
  dispatch_dtype<DType::f32, DType::f16, DType::bf16>(input, [&]<class In>(In) {
    dispatch_dtype<DType::f32, dtype_v<In>>(weight, [&]<class Weight>(Weight) {
      dispatch_dtype<dtype_v<In>, DType::e4m3, DType::e5m2>(output, [&]<class Out>(Out) {
        parallel_for(p.num_rows, grain, [&](int64_t begin, int64_t end) {
          dispatch_isa([&]<class Isa>(Isa) FLASHINFER_INLINE {
            for (int64_t row = begin; row < end; ++row) layernorm_row<Isa, In, Weight, Out>(p, row);
          });
        });
      });
    });
  });
}

}  // namespace flashinfer::cpu
