// Host only. Softmax on the CPU: a pass for the maximum, one that writes weights and sums their masses, one that divides them. Weights are
// those of the GPU, which wants to know them before the maximum.
#pragma once

#include <algorithm>
#include <limits>

#include <flashinfer/sampling/cpu/row.hpp>
#include <flashinfer/sampling/softmax_params.hpp>

namespace flashinfer::cpu {

/// The largest that is not NaN.
inline float largest_of_sample(const float* x, int32_t vocab_size) {
  float largest = -kInfinity;
  for (int32_t group = 0; group < SoftmaxSample::kGroups; ++group)
    for (int32_t i = 0; i < SoftmaxSample::kGroup; ++i) largest = max(x[SoftmaxSample::index(group, i, vocab_size)], largest);
  return largest;
}

/// Writes weigh(vector) of all elements, and sums what it writes. In runs: what the compiler vectorises by itself reads a small array.
template <class Isa, class Weigh>
FLASHINFER_INLINE inline SoftmaxMass write_weights(const float* x, int64_t size, float* output, const Weigh& weigh) {
  constexpr int kRun = 256;
  float weights[kRun];
  SoftmaxMass mass;
  for (int64_t i = 0; i < size; i += kRun) {
    const int64_t count = min(size - i, int64_t(kRun));
    uint32_t heavy = 0;
    for_each_vec<Isa>(count, [&](int64_t j, auto... rest) FLASHINFER_INLINE {
      const typename Isa::F f = weigh(Isa::load(x + i + j, rest...));
      heavy |= Isa::bits(Isa::less(Isa::set(1), f));
      Isa::store(weights + j, f, rest...), Isa::store(output + i + j, f, rest...);
    });
    for (int64_t j = 0; heavy && j < count; ++j)
      if (weights[j] >= SoftmaxMass::kHeavy) mass.heavy += SoftmaxMass::mass_of_heavy(weights[j]), weights[j] = 0;
    uint64_t part = 0;
    for (int64_t j = 0; j < count; ++j) part += cpu::mass_of(weights[j]);
    mass.light += part;
  }
  return mass;
}

template <class Isa>
FLASHINFER_INLINE inline void softmax_row(const SoftmaxParams& p, DType input, int64_t row, RowScratch& scratch) {
  using F = typename Isa::F;
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
  const SoftmaxWeight weight(largest_of_sample(x, p.vocab_size), temperature);
  SoftmaxMass mass;
  if (weight.is_known() && weight.suits(r.largest())) {
    const F c = Isa::set(weight.scale), offset = Isa::set(-weight.anchor);
    mass = write_weights<Isa>(x, p.vocab_size, output,
                              [&](const F& x) FLASHINFER_INLINE { return portable_exp2<Isa>(PortableVec<Isa>::fma(x, c, offset)); });
  } else {
    mass = write_weights<Isa>(x, p.vocab_size, output, [&](const F& x) FLASHINFER_INLINE { return r.weight(x); });
  }
  const F scale = Isa::set(1.0f / mass.weight());
  for_each_vec<Isa>(p.vocab_size, [&](int64_t i, auto... count)
                                      FLASHINFER_INLINE { Isa::store(output + i, Isa::load(output + i, count...) * scale, count...); });
}

inline void softmax(const SoftmaxParams& p, DType input) {
  parallel_rows(p.num_rows, p.vocab_size, [&]<class Isa>(Isa, int64_t begin, int64_t end) FLASHINFER_INLINE {
    for (int64_t row = begin; row < end; ++row) softmax_row<Isa>(p, input, row, RowScratch::of_thread());
  });
}

}  // namespace flashinfer::cpu
