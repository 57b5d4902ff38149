// Host only. Filtering whole rows on the CPU: zeros or -inf's, then what is kept is written over them.
#pragma once

#include <algorithm>

#include <flashinfer/cpu/dispatch_dtype.hpp>
#include <flashinfer/sampling/cpu/row.hpp>
#include <flashinfer/sampling/renorm_params.hpp>

namespace flashinfer::cpu {

template <class Isa, class T, class Out, RowValues kValues>
FLASHINFER_INLINE inline void renorm_row(const RenormParams& p, int64_t row, Candidates& kept) {
  constexpr bool kLogits = kValues == RowValues::logits;
  const T* input = static_cast<const T*>(p.input) + row * p.input_stride;
  Out* output = static_cast<Out*>(p.output) + row * p.output_stride;
  const Out nothing = from_float<Out>(kLogits ? -kInfinity : 0.0f);
  const Row<Isa, T, kValues> r(input, p.vocab_size, 1.0f);
  if (r.empty()) return void(std::fill_n(output, p.vocab_size, nothing));

  const int32_t top_k = p.top_k.at(row, row);
  uint64_t total = 0;
  if (r.keep({.top_k = top_k > 0 ? top_k : INT64_MAX, .top_p = p.top_p.at(row, row)}, kept, total)) {
    std::fill_n(output, p.vocab_size, nothing);  // the input may be gone now
    const float scale = kLogits ? 1.0f : 1.0f / weight_of_mass(kept.mass());
    const std::vector<float>& values = kLogits ? kept.x : kept.weight;
    for (int64_t i = 0; i < kept.count; ++i) output[kept.index[size_t(i)]] = from_float<Out>(values[size_t(i)] * scale);
  } else if constexpr (kLogits) {
    for (int64_t i = 0; i < p.vocab_size; ++i) output[i] = order_key(input[i]) == 0 ? nothing : from_float<Out>(to_float(input[i]));
  } else {
    const float scale = 1.0f / weight_of_mass(r.mass());
    r.for_each_run([&](int64_t first, const float* weights, int64_t count) FLASHINFER_INLINE {
      for_each_vec<Isa>(count, [&](int64_t i, auto... rest) FLASHINFER_INLINE {
        Isa::store(output + first + i, Isa::load(weights + i, rest...) * Isa::set(scale), rest...);
      });
    });
  }
}

inline void renorm(const RenormParams& p, RowValues values, DType input, DType output) {
  dispatch_dtype<DType::f32, DType::f16, DType::bf16>(input, [&]<class T>(T) {
    dispatch_dtype<DType::f32, dtype_v<T>>(output, [&]<class Out>(Out) {
      parallel_rows(p.num_rows, p.vocab_size, [&]<class Isa>(Isa, int64_t begin, int64_t end) FLASHINFER_INLINE {
        static thread_local Candidates kept;
        for (int64_t row = begin; row < end; ++row)
          if (values == RowValues::probs)
            renorm_row<Isa, T, Out, RowValues::probs>(p, row, kept);
          else if constexpr (is_same_v<T, Out>)
            renorm_row<Isa, T, Out, RowValues::logits>(p, row, kept);
      });
    });
  });
}

}  // namespace flashinfer::cpu
