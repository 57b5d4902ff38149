// Host only. Sampling on the CPU: rows in parallel; where filters are on, only what they keep enters the race. Of what top_p keeps nobody
// looks for the end: the token that wins without it also wins with it if the mass before it is less than top_p wants. Else neither it nor
// anything after it is kept, and those before it race again: 1 + ln(1 / top_p) races in the mean, whatever the row.
#pragma once

#include <algorithm>

#include <flashinfer/sampling/cpu/race.hpp>
#include <flashinfer/sampling/cpu/row_filter.hpp>

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

/// The token that is drawn of what is kept.
template <class Isa, RowValues kValues>
FLASHINFER_INLINE inline int64_t race(const Race& start, const Row<Isa, kValues>& r, KeptElements kept, const Candidates& c) {
  constexpr bool kLogits = kValues == RowValues::logits;
  Race race = start;
  if (kept.listed) {
    for (int64_t i = 0; i < c.count; ++i) race.enter(c.index[size_t(i)], kLogits ? c.weight[size_t(i)] : finite_prob(c.x[size_t(i)]));
    return race.token();
  }
  for (;; race = start) {
    r.template for_each_run<true>(
        kept.rank, [&](int64_t first, const float* weights, int64_t count) FLASHINFER_INLINE { race.enter<Isa>(first, weights, count); });
    const int64_t token = race.token();
    if (token < 0 || kept.mass == 0) return token;
    kept.rank = r.rank(token) + 1;
    if (r.mass(kept.rank) < kept.mass) return token;
  }
}

}  // namespace detail

template <class Isa, RowValues kValues>
FLASHINFER_INLINE inline void sampling_row(const SamplingParams& p, DType input, int64_t row, RowScratch& scratch) {
  const int64_t input_row = p.input_row(row);
  const float temperature = p.temperature.at(row, input_row);
  const float* x = floats_of<Isa>(p.input, input, input_row * p.input_stride, p.vocab_size, scratch);
  const int32_t top_k = p.top_k.at(row, input_row);
  RowFilter filter{top_k > 0 ? top_k : INT64_MAX, p.top_p.at(row, input_row), p.min_p.at(row, input_row), p.joint};
  if (kValues == RowValues::logits && is_greedy(temperature)) filter.top_k = 1;
  using Filters = RowFilters<Isa, kValues>;
  Candidates& c = scratch.kept;
  auto first = RowList<Isa>::of_first(x, p.vocab_size, Filters::kNothing, Filters::first_of(filter, p.vocab_size), c);
  const Row<Isa, kValues> r(x, p.vocab_size, temperature, &first);
  if (r.has_nan() || r.empty()) return detail::write_invalid(p, row);
  first.end();

  const bool logprobs = p.logprob || p.num_top > 0;
  const Filters filters(r);
  KeptElements kept = filters.keep(filter, c);
  const bool asks_for_end = p.probs || (logprobs && !p.raw_logprobs);  // a token does not need it
  const uint64_t kept_mass = asks_for_end ? filters.end(kept, c) : 0;

  const Race start(p.seed.at(row, input_row), p.offset.at(row, input_row), p.draw(row));
  const int64_t token = max(detail::race(start, r, kept, c), int64_t(0));
  write_token(p, row, token);
  if (p.valid) p.valid[row] = true;

  const uint64_t counted = logprobs && p.raw_logprobs ? r.mass() : kept_mass;
  if (p.logprob) p.logprob[row] = log_prob(r.weight(r.value(token)), counted);
  if (p.num_top > 0) {
    const uint64_t least = p.raw_logprobs ? 0 : kept.listed ? c.least_rank() : kept.rank;
    filters.list_first(p.num_top, scratch.top);
    int32_t* tokens = p.top_tokens + row * p.num_top;
    float* logprobs = p.top_logprobs + row * p.num_top;
    std::copy_n(scratch.top.index.begin(), p.num_top, tokens);
    std::sort(tokens, tokens + p.num_top, [&](int32_t a, int32_t b) { return r.rank(a) > r.rank(b); });
    for (int32_t i = 0; i < p.num_top; ++i)
      logprobs[i] = r.rank(tokens[i]) >= least ? log_prob(r.weight(r.value(tokens[i])), counted) : -kInfinity;
  }
  if (p.probs) {
    float* probs = p.probs + row * p.probs_stride;
    const float scale = 1.0f / weight_of_mass(kept_mass);
    if (kept.listed) {
      std::fill_n(probs, p.vocab_size, 0.0f);
      for (int64_t i = 0; i < c.count; ++i) probs[c.index[size_t(i)]] = c.weight[size_t(i)] * scale;
    } else {
      r.for_each_run(kept.rank, [&](int64_t first, const float* weights, int64_t count) FLASHINFER_INLINE {
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
