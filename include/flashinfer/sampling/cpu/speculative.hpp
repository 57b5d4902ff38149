// Host only. Chain speculative sampling on the CPU: requests in parallel.
#pragma once

#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/cpu/vec.hpp>
#include <flashinfer/sampling/cpu/race.hpp>
#include <flashinfer/sampling/speculative_params.hpp>

namespace flashinfer::cpu {

/// The winner of a step's race with weights max(target - draft, 0), or target where draft is null; -1 if all weights are 0.
template <class Isa>
FLASHINFER_INLINE inline int64_t speculative_race(Race race, const float* target, const float* draft, int64_t vocab_size) {
  constexpr int kRun = 256;
  float weights[kRun];
  for (int64_t first = 0; first < vocab_size; first += kRun) {
    const int64_t count = min(vocab_size - first, int64_t(kRun));
    for_each_vec<Isa>(count, [&](int64_t i, auto... rest) FLASHINFER_INLINE {
      typename Isa::F w = Isa::load(target + first + i, rest...);
      if (draft) w = w - Isa::load(draft + first + i, rest...);
      w = Isa::select(Isa::less(Isa::set(0), w), Isa::min(Isa::set(kLargestFloat), w), Isa::set(0));  // finite_prob
      Isa::store(weights + i, w, rest...);
    });
    race.enter<Isa>(first, weights, count);
  }
  return race.token();
}

template <class Isa>
FLASHINFER_INLINE inline void speculative_request(const SpeculativeParams& p, int64_t request) {
  const uint64_t seed = p.seed.at(request, request), offset = p.offset.at(request, request);
  const uint32_t draw = p.draw(request);
  const auto draft = [&](int step) { return p.draft_probs + request * p.draft_batch_stride + step * p.draft_step_stride; };
  const auto target = [&](int step) { return p.target_probs + request * p.target_batch_stride + step * p.target_step_stride; };
  int32_t* tokens = p.tokens + request * (p.num_steps + 1);

  int accepted = 0, emitted = p.num_steps;
  for (int step = 0; step < p.num_steps; ++step) {
    const int64_t at = request * p.num_steps + step;
    const int64_t token =
        p.draft_tokens_64 ? static_cast<const int64_t*>(p.draft_tokens)[at] : static_cast<const int32_t*>(p.draft_tokens)[at];
    const bool accepts =
        token >= 0 && token < p.vocab_size && accept_uniform(seed, offset, draw, uint32_t(step)) * draft(step)[token] < target(step)[token];
    accepted += accepts;
    if (!accepts) emitted = min(emitted, step);
    if (step < emitted) tokens[step] = int32_t(token);
  }
  const Race race(seed, offset, draw, uint32_t(emitted));
  int64_t last = emitted < p.num_steps ? speculative_race<Isa>(race, target(emitted), draft(emitted), p.vocab_size) : -1;
  if (last < 0) last = speculative_race<Isa>(race, target(emitted), nullptr, p.vocab_size);
  tokens[emitted] = int32_t(max(last, int64_t(0)));
  for (int step = emitted + 1; step <= p.num_steps; ++step) tokens[step] = -1;
  p.accepted[request] += accepted;
  p.emitted[request] += emitted;
}

inline void chain_speculative_sampling(const SpeculativeParams& p) {
  parallel_for(p.batch_size, 16384 / p.vocab_size + 1, [&](int64_t begin, int64_t end) {
    dispatch_isa([&]<class Isa>(Isa) FLASHINFER_INLINE {
      for (int64_t request = begin; request < end; ++request) speculative_request<Isa>(p, request);
    });
  });
}

}  // namespace flashinfer::cpu
