// Host only. RMSNorm on the CPU: one pass for the sum of squares, one for the result; the second finds the row in the cache.
#pragma once

#include <cmath>
#include <utility>

#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/dispatch_dtype.hpp>
#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/cpu/vec.hpp>
#include <flashinfer/norm/rmsnorm_params.hpp>

namespace flashinfer::cpu {

template <class Isa, class In, class Weight, class Out>
FLASHINFER_INLINE inline void rmsnorm_row(const RmsnormParams& p, int64_t row) {
  using F = typename Isa::F;
  const In* input = static_cast<const In*>(p.input) + p.input_rows.offset(row);
  In* residual = p.residual ? static_cast<In*>(p.residual) + p.residual_rows.offset(row) : nullptr;
  const Weight* weight = static_cast<const Weight*>(p.weight);
  Out* output = static_cast<Out*>(p.output) + p.output_rows.offset(row);

  F squares = Isa::set(0), more = Isa::set(0);  // two chains: an addition takes four cycles
  for_each_vec<Isa>(p.hidden_size, [&](int64_t i, auto... count) FLASHINFER_INLINE {
    F x = Isa::load(input + i, count...);
    if (residual) x = x + Isa::load(residual + i, count...);
    squares = Isa::fma(x, x, squares);
    std::swap(squares, more);
  });
  const float mean = Isa::sum(squares + more) / float(p.hidden_size);
  const F scale = Isa::set(1.0f / std::sqrt(mean + p.eps));
  const F inverse_scale = Isa::set(1.0f / (p.scale ? *p.scale : p.scale_value)), bias = Isa::set(p.weight_bias);

  for_each_vec<Isa>(p.hidden_size, [&](int64_t i, auto... count) FLASHINFER_INLINE {
    F x = Isa::load(input + i, count...);
    if (residual) {
      x = x + Isa::load(residual + i, count...);
      Isa::store(residual + i, x, count...);
    }
    x = x * scale * (Isa::load(weight + i, count...) + bias);
    if constexpr (is_float8(dtype_v<Out>)) x = x * inverse_scale;
    Isa::store(output + i, x, count...);
  });
}

inline void rmsnorm(const RmsnormParams& p, DType input, DType weight, DType output) {
  const int64_t grain = 16384 / p.hidden_size + 1;  // some microseconds of work
  dispatch_dtype<DType::f32, DType::f16, DType::bf16>(input, [&]<class In>(In) {
    dispatch_dtype<DType::f32, dtype_v<In>>(weight, [&]<class Weight>(Weight) {
      dispatch_dtype<dtype_v<In>, DType::e4m3, DType::e5m2>(output, [&]<class Out>(Out) {
        parallel_for(p.num_rows, grain, [&](int64_t begin, int64_t end) {
          dispatch_isa([&]<class Isa>(Isa) FLASHINFER_INLINE {
            for (int64_t row = begin; row < end; ++row) rmsnorm_row<Isa, In, Weight, Out>(p, row);
          });
        });
      });
    });
  });
}

}  // namespace flashinfer::cpu
