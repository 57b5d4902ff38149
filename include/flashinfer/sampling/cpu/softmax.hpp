// Host only. Softmax on the CPU: a pass for the maximum, one that writes weights and sums their masses, one that divides them.
#pragma once

#include <algorithm>
#include <limits>

#include <flashinfer/sampling/cpu/row.hpp>
#include <flashinfer/sampling/softmax_params.hpp>

namespace flashinfer::cpu {

template <class Isa>
FLASHINFER_INLINE inline void softmax_row(const SoftmaxParams& p, DType input, int64_t row, RowScratch& scratch) {
  const float temperature = p.temperature.at(row, row);
  float* output = p.output + row * p.output_stride;
  const float* x = floats_of<Isa>(p.input, input, row * p.input_stride, p.vocab_size, scratch);
  const Row<Isa, RowValues::logits> r(x, p.vocab_size, temperature);
  if (r.has_nan()) return void(std::fill_n(output, p.vocab_size, std::numeric_limits<float>::quiet_NaN()));
  if (r.empty()) return void(std::fill_n(output, p.vocab_size, 0.0f));
  if (is_greedy(temperature)) {
    int64_t first = 0;
    for (int64_t i = 1; i < p.vocab_size; ++i)
      if (x[i] > x[first]) first = i;
    std::fill_n(output, p.vocab_size, 0.0f);
    output[first] = 1;
    return;
  }
  uint64_t mass = 0;
  r.for_each_run(kWholeRow, [&](int64_t first, const float* weights, int64_t count) FLASHINFER_INLINE {
    uint64_t part = 0;
    for (int64_t i = 0; i < count; ++i) part += cpu::mass_of(weights[i]), output[first + i] = weights[i];
    mass += part;
  });
  const typename Isa::F scale = Isa::set(1.0f / weight_of_mass(mass));
  for_each_vec<Isa>(p.vocab_size, [&](int64_t i, auto... count)
                                      FLASHINFER_INLINE { Isa::store(output + i, Isa::load(output + i, count...) * scale, count...); });
}

inline void softmax(const SoftmaxParams& p, DType input) {
  parallel_rows(p.num_rows, p.vocab_size, [&]<class Isa>(Isa, int64_t begin, int64_t end) FLASHINFER_INLINE {
    for (int64_t row = begin; row < end; ++row) softmax_row<Isa>(p, input, row, RowScratch::of_thread());
  });
}

}  // namespace flashinfer::cpu
