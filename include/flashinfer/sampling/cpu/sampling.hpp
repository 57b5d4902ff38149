// Host only. Sampling on the CPU: rows in parallel; where filters are on, only what they keep enters the race.
#pragma once

#include <algorithm>

#include <flashinfer/sampling/cpu/race.hpp>
#include <flashinfer/sampling/cpu/row.hpp>

namespace flashinfer::cpu {

namespace detail {

inline void write_invalid(const SamplingParams& p, int64_t row) {
  write_token(p, row, 0);
  if (p.valid) p.valid[row] = false;
  if (p.logprob) p.logprob[row] = -kInfinity;
  for (int32_t i = 0; i < p.num_top; ++i) {
    p.top_tokens[row * p.num_top + i] = 0;
    p.top_logprobs[row * p.num_top + i] = -kInfinity;
  }
  if (p.probs) std::fill_n(p.probs + row * p.probs_stride, p.vocab_size, 0.0f);
}

}  // namespace detail

template <class Isa, RowValues kValues>
FLASHINFER_INLINE inline void sampling_row(const SamplingParams& p, DType input, int64_t row, RowScratch& scratch) {
  const int64_t input_row = p.input_row(row);
  const float temperature = p.temperature.at(row, input_row);
  const Row<Isa, kValues> r(floats_of<Isa>(p.input, input, input_row * p.input_stride, p.vocab_size, scratch), p.vocab_size, temperature);
  if (r.has_nan() || r.empty()) return detail::write_invalid(p, row);

  const int32_t top_k = p.top_k.at(row, input_row);
  RowFilter filter{top_k > 0 ? top_k : INT64_MAX, p.top_p.at(row, input_row), p.min_p.at(row, input_row), p.joint};
  if (kValues == RowValues::logits && is_greedy(temperature)) filter.top_k = 1;
  Candidates &kept = scratch.kept, &top = scratch.top;
  uint64_t total = 0;
  const bool filtered = r.keep(filter, kept, total, p.num_top, p.num_top > 0 ? &top : nullptr);

  Race race(p.seed.at(row, input_row), p.offset.at(row, input_row), p.draw(row));
  if (filtered && kept.count > p.vocab_size / 16) {  // a flat row: neighbours share random bits, and vectors of them are cheap
    std::vector<float>& weights = scratch.weights;
    weights.assign(size_t(p.vocab_size), 0.0f);
    for (int64_t i = 0; i < kept.count; ++i)
      weights[size_t(kept.index[size_t(i)])] = kValues == RowValues::logits ? kept.weight[size_t(i)] : finite_prob(kept.x[size_t(i)]);
    race.enter<Isa>(0, weights.data(), p.vocab_size);
  } else if (filtered) {
    for (int64_t i = 0; i < kept.count; ++i)
      race.enter(kept.index[size_t(i)], kValues == RowValues::logits ? kept.weight[size_t(i)] : finite_prob(kept.x[size_t(i)]));
  } else {
    r.template for_each_run<true>([&](int64_t first, const float* weights, int64_t count)
                                      FLASHINFER_INLINE { race.enter<Isa>(first, weights, count); });
  }
  const int64_t token = max(race.token(), int64_t(0));
  write_token(p, row, token);
  if (p.valid) p.valid[row] = true;
  if (!p.logprob && p.num_top == 0 && !p.probs) return;

  if (total == 0 && (!filtered || p.raw_logprobs)) total = r.mass();
  const uint64_t kept_mass = filtered ? kept.mass() : total, counted = p.raw_logprobs ? total : kept_mass;
  if (p.logprob) p.logprob[row] = log_prob(r.weight(r.value(token)), counted);
  if (p.num_top > 0) {
    r.complete_top(top, p.num_top);
    int32_t* tokens = p.top_tokens + row * p.num_top;
    float* logprobs = p.top_logprobs + row * p.num_top;
    for (int32_t i = 0; i < p.num_top; ++i) tokens[i] = top.index[size_t(i)];
    std::sort(tokens, tokens + p.num_top, [&](int32_t a, int32_t b) {
      return order_rank(order_key(r.value(a)), uint32_t(a)) > order_rank(order_key(r.value(b)), uint32_t(b));
    });
    for (int32_t i = 0; i < p.num_top; ++i) {
      const bool counts = p.raw_logprobs || !filtered || std::binary_search(kept.index.begin(), kept.index.begin() + kept.count, tokens[i]);
      logprobs[i] = counts ? log_prob(r.weight(r.value(tokens[i])), counted) : -kInfinity;
    }
  }
  if (p.probs) {
    float* probs = p.probs + row * p.probs_stride;
    const float scale = 1.0f / weight_of_mass(kept_mass);
    if (filtered) {
      std::fill_n(probs, p.vocab_size, 0.0f);
      for (int64_t i = 0; i < kept.count; ++i) probs[kept.index[size_t(i)]] = kept.weight[size_t(i)] * scale;
    } else {
      r.for_each_run([&](int64_t first, const float* weights, int64_t count) FLASHINFER_INLINE {
        for (int64_t i = 0; i < count; ++i) probs[first + i] = weights[i] * scale;
      });
    }
  }
}

inline void sampling(const SamplingParams& p, RowValues values, DType input) {
  parallel_rows(p.num_rows, p.vocab_size, [&]<class Isa>(Isa, int64_t begin, int64_t end) FLASHINFER_INLINE {
    RowScratch& scratch = RowScratch::of_thread();
    for (int64_t row = begin; row < end; ++row)
      if (values == RowValues::logits)
        sampling_row<Isa, RowValues::logits>(p, input, row, scratch);
      else
        sampling_row<Isa, RowValues::probs>(p, input, row, scratch);
  });
}

}  // namespace flashinfer::cpu
