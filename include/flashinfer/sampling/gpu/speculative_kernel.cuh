// Chain speculative sampling: which proposals of a draft model a target model accepts, and the token after them.
// Called by sampling/gpu/speculative.hpp; twin of sampling/cpu/speculative.hpp.
//
// Bound by: memory, the two rows of one step for each request (one row after a full acceptance).
// Threads:  a group of blocks a request; each decides all steps for itself, a thread a step, and races over its share of the vocabulary.
// Memory:   rows are read once, where they lie; a second time where target and draft are equal everywhere.
// Sync:     barriers of the block; one of the cluster, for the winner.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/gpu/vec.cuh>
#include <flashinfer/sampling/gpu/race.cuh>
#include <flashinfer/sampling/sampling_config_params.hpp>
#include <flashinfer/sampling/speculative_params.hpp>

namespace flashinfer {

template <SpeculativeConfig kConfig>
struct SpeculativeKernel {
  using Params = SpeculativeParams;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = 1;
  using Group = gpu::RowGroup<kThreads, kCluster, 2, gpu::RowShare::rounds>;

  struct Smem {
    typename Group::Smem group;
    int accepted, emitted;
    uint32_t best;  // bits of the best score of this block so far
  };

  static __device__ void run(const Params& p) {
    Smem& smem = *reinterpret_cast<Smem*>(gpu::dynamic_smem());
    static_assert(sizeof(Smem) <= SpeculativeConfig::kSmemBytes);
    if (kCluster > 1) Group::begin(smem.group);
    gpu::ptx::griddep_wait();
    SpeculativeKernel kernel(p, smem, int64_t(blockIdx.x) / kCluster);
    kernel.decide();
    gpu::ptx::griddep_launch_dependents();
    const int step = smem.emitted;
    uint64_t winner = step < p.num_steps ? kernel.race(step, true) : 0;
    if (winner == 0) winner = kernel.race(step, false);
    kernel.write(step, winner);
  }

 private:
  const Params& p_;
  Smem& smem_;
  Group group_;
  const int64_t request_;
  const uint64_t seed_, offset_;

  __device__ SpeculativeKernel(const Params& p, Smem& smem, int64_t request)
      : p_(p),
        smem_(smem),
        group_(smem.group),
        request_(request),
        seed_(p.seed.at(request, request)),
        offset_(p.offset.at(request, request)) {}

  __device__ const float* draft(int step) const { return p_.draft_probs + request_ * p_.draft_batch_stride + step * p_.draft_step_stride; }
  __device__ const float* target(int step) const {
    return p_.target_probs + request_ * p_.target_batch_stride + step * p_.target_step_stride;
  }
  __device__ int64_t proposal(int step) const {
    const int64_t at = request_ * p_.num_steps + step;
    return p_.draft_tokens_64 ? static_cast<const int64_t*>(p_.draft_tokens)[at] : static_cast<const int32_t*>(p_.draft_tokens)[at];
  }

  /// smem_.accepted and smem_.emitted.
  __device__ void decide() {
    const int step = int(threadIdx.x);
    if (step == 0) smem_.accepted = 0, smem_.emitted = p_.num_steps;
    __syncthreads();
    if (step < p_.num_steps) {
      const int64_t token = proposal(step);
      const bool accepts = token >= 0 && token < p_.vocab_size &&
                           accept_uniform(seed_, offset_, p_.draw(request_), uint32_t(step)) * draft(step)[token] < target(step)[token];
      if (accepts)
        atomicAdd(&smem_.accepted, 1);
      else
        atomicMin(&smem_.emitted, step);
    }
    __syncthreads();
  }

  /// The winner's score and token, 0 if nothing has a weight, in every thread.
  __device__ uint64_t race(int step, bool less_draft) {
    const float *q = target(step), *p = less_draft ? draft(step) : nullptr;
    const uint32_t draw = p_.draw(request_);
    const bool vectors = (uintptr_t(q) | uintptr_t(p)) % 16 == 0;
    uint64_t best = 0;
    if (threadIdx.x == 0) smem_.best = 0;
    __syncthreads();
    const gpu::RaceNoise<false> noise(seed_, offset_, draw, uint32_t(step));
    const int groups = int(group_of_token(uint32_t(round_up(p_.vocab_size, 2 * int(kTokensApart)))));  // of tokens that share a Philox
    for (int group = Group::rank() * kThreads + int(threadIdx.x); group < groups; group += kThreads * kCluster) {
      const int first = int(token_of_group(uint32_t(group)));
      const gpu::RaceBits<8> upper = noise.upper_of_group(first);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int begin = first + part * int(kTokensApart);
        if (begin >= p_.vocab_size) break;
        float w[4] = {}, less[4] = {};
        if (vectors && begin + 4 <= p_.vocab_size) {
          gpu::Vec<float, 4>::load(q + begin).to_float(w);
          if (p) gpu::Vec<float, 4>::load(p + begin).to_float(less);
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            if (begin + j >= p_.vocab_size) break;
            w[j] = q[begin + j];
            if (p) less[j] = p[begin + j];
          }
        }
        const gpu::BestScore best_score(smem_.best);
        const gpu::RaceBar bar(best_score.bar());
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float weight = finite_prob(p ? w[j] - less[j] : w[j]);
          if (!bar.is_reached(weight, upper, 4 * part + j) || !(weight > 0)) continue;
          const float score = race_score(weight, gpu::bits_at(upper, noise.lower_of_group(upper), 4 * part + j));
          best = max(best, gpu::race_entry(score, uint32_t(begin + j)));
          best_score.raise(score);
        }
      }
    }
    return group_.max(best);
  }

  __device__ void write(int emitted, uint64_t winner) const {
    if (Group::rank() != 0) return;
    const int step = int(threadIdx.x);
    if (step <= p_.num_steps) {
      int32_t token = -1;
      if (step < emitted) token = int32_t(proposal(step));
      if (step == emitted) token = winner ? int32_t(index_of_rank(winner)) : 0;
      p_.tokens[request_ * (p_.num_steps + 1) + step] = token;
    }
    if (step == 0) {
      p_.accepted[request_] += smem_.accepted;
      p_.emitted[request_] += emitted;
    }
  }
};

}  // namespace flashinfer
