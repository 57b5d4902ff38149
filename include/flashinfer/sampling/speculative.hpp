// Chain speculative sampling (Leviathan et al., Chen et al. 2023): which of a draft model's tokens the target model accepts, and the
// token after them. The tokens that come out are distributed as the target's own.
//
//   draft_probs   [batch_size, n, vocab_size], target_probs [batch_size, n + 1, vocab_size]   f32, outer strides free
//   draft_tokens  [batch_size, n]   i32 or i64
//   tokens        [batch_size, n + 1]   i32: accepted tokens, one more, then -1
//   accepted, emitted  [batch_size]   i32, added to: steps that accept by themselves; tokens before the first rejection
#pragma once

#include <utility>

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/cpu/speculative.hpp>
#include <flashinfer/sampling/gpu/speculative.hpp>
#include <flashinfer/sampling/row_argument.hpp>
#include <flashinfer/sampling/sampling.hpp>

namespace flashinfer {

inline void chain_speculative_sampling(const TensorView& draft_probs, const TensorView& draft_tokens, const TensorView& target_probs,
                                       const SamplingSeed& random, const TensorView& tokens, const TensorView& accepted,
                                       const TensorView& emitted, const Context& context = {}) {
  const Check check("chain_speculative_sampling");
  const Device device = context.device;
  check.rank("draft_probs", draft_probs, 3);
  const int64_t batch_size = draft_probs.shape[0], num_steps = draft_probs.shape[1], vocab_size = draft_probs.shape[2];
  check.that(num_steps < 128, "draft_probs", "fewer than 128 tokens a request", [&] { return std::to_string(num_steps); });
  check.that(vocab_size >= 1 && vocab_size <= kMaxVocabSize, "draft_probs", "a vocabulary of 1 to 2^22 tokens",
             [&] { return std::to_string(vocab_size); });
  check.shape("target_probs", target_probs,
              {{"batch_size", batch_size}, {"num_speculate_tokens + 1", num_steps + 1}, {"vocab_size", vocab_size}});
  check.shape("draft_token_ids", draft_tokens, {{"batch_size", batch_size}, {"num_speculate_tokens", num_steps}});
  check.dtype("draft_token_ids", draft_tokens, {DType::i32, DType::i64});
  check.contiguous("draft_token_ids", draft_tokens);
  check.device("draft_token_ids", draft_tokens, device);
  for (const auto& [name, t] : {std::pair{"draft_probs", draft_probs}, std::pair{"target_probs", target_probs}}) {
    check.dtype(name, t, DType::f32);
    check.inner_stride(name, t);
    check.device(name, t, device);
  }
  check.shape("output_token_ids", tokens, {{"batch_size", batch_size}, {"num_speculate_tokens + 1", num_steps + 1}});
  check.shape("maybe_output_accepted_token_num", accepted, {{"batch_size", batch_size}});
  check.shape("maybe_output_emitted_draft_token_num", emitted, {{"batch_size", batch_size}});
  for (const auto& [name, t] : {std::pair{"output_token_ids", tokens}, std::pair{"maybe_output_accepted_token_num", accepted},
                                std::pair{"maybe_output_emitted_draft_token_num", emitted}}) {
    check.dtype(name, t, DType::i32);
    check.contiguous(name, t);
    check.device(name, t, device);
    check.that(!overlap(t, draft_probs) && !overlap(t, target_probs) && !overlap(t, draft_tokens), name, "memory of its own",
               "memory that an input lies in");
  }
  check.that(!overlap(accepted, emitted), "maybe_output_emitted_draft_token_num", "memory of its own", "memory of the other count");

  SpeculativeParams p;
  p.seed = random.seed.random(check, "seed", batch_size, device);
  p.offset = random.offset.random(check, "offset", batch_size, device);
  if (batch_size == 0) return;
  p.draft_probs = draft_probs.as<const float>();
  p.draft_batch_stride = draft_probs.strides[0];
  p.draft_step_stride = draft_probs.strides[1];
  p.target_probs = target_probs.as<const float>();
  p.target_batch_stride = target_probs.strides[0];
  p.target_step_stride = target_probs.strides[1];
  p.draft_tokens = draft_tokens.data;
  p.draft_tokens_64 = draft_tokens.dtype == DType::i64;
  p.batch_size = batch_size;
  p.num_steps = int32_t(num_steps);
  p.vocab_size = int32_t(vocab_size);
  p.tokens = tokens.as<int32_t>();
  p.accepted = accepted.as<int32_t>();
  p.emitted = emitted.as<int32_t>();
  if (device.type == DeviceType::cpu) return cpu::chain_speculative_sampling(p);
  gpu::chain_speculative_sampling(p, context);
}

}  // namespace flashinfer
