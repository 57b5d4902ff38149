// What host and device share of chain speculative sampling: the arguments of one launch.
//
//   Request b proposes the tokens d_0 .. d_(n-1), drawn from the draft's distributions p_i; the target's are q_0 .. q_n.
//   Step i accepts d_i if accept_uniform(seed, offset, draw, i) * p_i[d_i] < q_i[d_i]; a token out of range is rejected.
//   The tokens before the first rejection are emitted, then one more: at a rejection the winner of the race of step i with weights
//   max(q_i - p_i, 0) (of q_i where those are all 0), after n acceptances of the race of step n with weights q_n. No weights at all: 0.
//   The rest of the n + 1 outputs is -1. Races are those of sampling_params.hpp, with weights as they are: score = weight / noise.
//   accepted += the number of steps that accept, whatever happened before them. emitted += tokens before the first rejection.
#pragma once

#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer {

struct SpeculativeParams {
  const float* draft_probs = nullptr;   // [batch_size, num_steps, vocab_size], rows dense
  const float* target_probs = nullptr;  // [batch_size, num_steps + 1, vocab_size]
  const void* draft_tokens = nullptr;   // [batch_size, num_steps] int32 or int64, contiguous
  int64_t draft_batch_stride = 0, draft_step_stride = 0, target_batch_stride = 0, target_step_stride = 0;  // in elements
  int64_t batch_size = 0;
  int32_t num_steps = 0;  // below 128
  int32_t vocab_size = 0;
  bool draft_tokens_64 = false;
  RowParam<uint64_t> seed, offset;
  int32_t* tokens = nullptr;    // [batch_size, num_steps + 1], contiguous
  int32_t* accepted = nullptr;  // [batch_size], added to
  int32_t* emitted = nullptr;   // [batch_size], added to

  FLASHINFER_HOST_DEVICE constexpr uint32_t draw(int64_t row) const { return seed.per_row() ? 0u : uint32_t(row); }
};

}  // namespace flashinfer
