// Host only. Filtering whole rows on the CPU: zeros or -inf's, then what is kept is written over them.
#pragma once

#include <algorithm>

#include <flashinfer/cpu/dispatch_dtype.hpp>
#include <flashinfer/sampling/cpu/row.hpp>
#include <flashinfer/sampling/renorm_params.hpp>

namespace flashinfer::cpu {

template <class Isa, RowValues kValues>
FLASHINFER_INLINE inline void renorm_row(const RenormParams& p, DType input, DType output, int64_t row, RowScratch& scratch) {
  constexpr bool kLogits = kValues == RowValues::logits;
  const float* x = floats_of<Isa>(p.input, input, row * p.input_stride, p.vocab_size, scratch);
  const Row<Isa, kValues> r(x, p.vocab_size, 1.0f);
  Candidates& kept = scratch.kept;
  const int32_t top_k = p.top_k.at(row, row);
  uint64_t total = 0;
  kept.count = 0;
  const bool filtered = r.empty() || r.keep({.top_k = top_k > 0 ? top_k : INT64_MAX, .top_p = p.top_p.at(row, row)}, kept, total);
  const float scale = kLogits || r.empty() ? 1.0f : 1.0f / weight_of_mass(filtered ? kept.mass() : r.mass());

  dispatch_dtype<DType::f32, DType::f16, DType::bf16>(output, [&]<class Out>(Out) FLASHINFER_INLINE {
    Out* y = static_cast<Out*>(p.output) + row * p.output_stride;
    const Out nothing = from_float<Out>(kLogits ? -kInfinity : 0.0f);
    if (filtered) {
      std::fill_n(y, p.vocab_size, nothing);  // the input may be gone now
      const std::vector<float>& values = kLogits ? kept.x : kept.weight;
      for (int64_t i = 0; i < kept.count; ++i) y[kept.index[size_t(i)]] = from_float<Out>(values[size_t(i)] * scale);
    } else if constexpr (kLogits) {
      for (int64_t i = 0; i < p.vocab_size; ++i) y[i] = x[i] == x[i] ? from_float<Out>(x[i]) : nothing;
    } else {
      r.for_each_run([&](int64_t first, const float* weights, int64_t count) FLASHINFER_INLINE {
        for_each_vec<Isa>(count, [&](int64_t i, auto... rest) FLASHINFER_INLINE {
          Isa::store(y + first + i, Isa::load(weights + i, rest...) * Isa::set(scale), rest...);
        });
      });
    }
  });
}

inline void renorm(const RenormParams& p, RowValues values, DType input, DType output) {
  parallel_rows(p.num_rows, p.vocab_size, [&]<class Isa>(Isa, int64_t begin, int64_t end) FLASHINFER_INLINE {
    RowScratch& scratch = RowScratch::of_thread();
    for (int64_t row = begin; row < end; ++row)
      if (values == RowValues::probs)
        renorm_row<Isa, RowValues::probs>(p, input, output, row, scratch);
      else
        renorm_row<Isa, RowValues::logits>(p, input, output, row, scratch);
  });
}

}  // namespace flashinfer::cpu
