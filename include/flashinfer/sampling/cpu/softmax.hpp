// Host only. Softmax on the CPU: a pass for the maximum, one for the mass, one that writes.
#pragma once

#include <algorithm>
#include <limits>

#include <flashinfer/cpu/dispatch_dtype.hpp>
#include <flashinfer/sampling/cpu/row.hpp>
#include <flashinfer/sampling/softmax_params.hpp>

namespace flashinfer::cpu {

template <class Isa, class T>
FLASHINFER_INLINE inline void softmax_row(const SoftmaxParams& p, int64_t row, Candidates& kept) {
  const float temperature = p.temperature.at(row, row);
  float* output = p.output + row * p.output_stride;
  const Row<Isa, T, RowValues::logits> r(static_cast<const T*>(p.input) + row * p.input_stride, p.vocab_size, temperature);
  if (r.has_nan()) return void(std::fill_n(output, p.vocab_size, std::numeric_limits<float>::quiet_NaN()));
  if (r.empty()) return void(std::fill_n(output, p.vocab_size, 0.0f));
  if (is_greedy(temperature)) {
    uint64_t total = 0;
    r.keep({.top_k = 1}, kept, total);
    const int32_t first = p.vocab_size > 1 ? kept.index[0] : 0;
    std::fill_n(output, p.vocab_size, 0.0f);
    output[first] = 1;
    return;
  }
  const float scale = 1.0f / weight_of_mass(r.mass());
  r.for_each_run([&](int64_t first, const float* weights, int64_t count) FLASHINFER_INLINE {
    for (int64_t i = 0; i < count; ++i) output[first + i] = weights[i] * scale;
  });
}

inline void softmax(const SoftmaxParams& p, DType input) {
  dispatch_dtype<DType::f32, DType::f16, DType::bf16>(input, [&]<class T>(T) {
    parallel_rows(p.num_rows, p.vocab_size, [&]<class Isa>(Isa, int64_t begin, int64_t end) FLASHINFER_INLINE {
      static thread_local Candidates kept;
      for (int64_t row = begin; row < end; ++row) softmax_row<Isa, T>(p, row, kept);
    });
  });
}

}  // namespace flashinfer::cpu
