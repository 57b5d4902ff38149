// Host only. Filtering whole rows on the CPU: zeros or -inf's, then what is kept is written over them.
#pragma once

#include <algorithm>

#include <flashinfer/cpu/dispatch_dtype.hpp>
#include <flashinfer/sampling/cpu/row_filter.hpp>
#include <flashinfer/sampling/renorm_params.hpp>

namespace flashinfer::cpu {

template <class Isa, RowValues kValues>
FLASHINFER_INLINE inline void renorm_row(const RenormParams& p, DType input, DType output, int64_t row, RowScratch& scratch) {
  constexpr bool kLogits = kValues == RowValues::logits;
  const float* x = floats_of<Isa>(p.input, input, row * p.input_stride, p.vocab_size, scratch);
  const int32_t top_k = p.top_k.at(row, row);
  const RowFilter filter{.top_k = top_k > 0 ? top_k : INT64_MAX, .top_p = p.top_p.at(row, row)};
  using Filters = RowFilters<Isa, kValues>;
  Candidates& c = scratch.kept;
  auto first = RowList<Isa>::of_first(x, p.vocab_size, Filters::kNothing, Filters::first_of(filter, p.vocab_size), c);
  const Row<Isa, kValues> r(x, p.vocab_size, 1.0f, &first);
  KeptElements kept;
  float scale = 1;
  if (r.empty()) {
    kept.listed = true, c.count = 0;
  } else {
    first.end();
    const Filters filters(r);
    kept = filters.keep(filter, c);
    const uint64_t mass = kLogits && kept.mass == 0 ? 0 : filters.end(kept, c);
    if (!kLogits) scale = 1.0f / weight_of_mass(mass);
  }

  dispatch_dtype<DType::f32, DType::f16, DType::bf16>(output, [&]<class Out>(Out) FLASHINFER_INLINE {
    using F = typename Isa::F;
    Out* y = static_cast<Out*>(p.output) + row * p.output_stride;
    const float nothing = kLogits ? -kInfinity : 0.0f;
    if (kept.listed) {
      std::fill_n(y, p.vocab_size, from_float<Out>(nothing));  // the input may be gone now
      const std::vector<float>& values = kLogits ? c.x : c.weight;
      for (int64_t i = 0; i < c.count; ++i) y[c.index[size_t(i)]] = from_float<Out>(values[size_t(i)] * scale);
    } else {
      const IsInPrefix<Isa> in_prefix(kept.rank);
      for_each_vec<Isa>(p.vocab_size, [&](int64_t i, auto... count) FLASHINFER_INLINE {
        const F own = Isa::load(x + i, count...), value = kLogits ? own : r.weight(own) * Isa::set(scale);
        Isa::store(y + i, Isa::select(in_prefix(own, i), value, Isa::set(nothing)), count...);
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
