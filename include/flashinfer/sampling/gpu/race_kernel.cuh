// Draws a token from each row of logits or probabilities that no filter cuts, in one pass over the row.
// Called by sampling/gpu/sampling.hpp; twin of sampling/cpu/sampling.hpp: the same token wins, bit for bit.
//
// Bound by: memory; for few rows by the chain load, race, one barrier of the cluster. About 90 instructions for four elements, half of
//           them Philox, hide behind the loads.
// Threads:  a cluster of blocks a row, each with a slice of it.
// Memory:   registers; two vectors of each thread are on their way. Nothing of a row is kept, for nobody looks at it again.
// Method:   probabilities race as they are, and their scores are exact. What a logit weighs depends on the row's maximum, which nobody
//           knows before the end, so logits race by the logarithms of their scores, approximately. Where a second score is so close to the
//           best that the approximation cannot tell (one row in ten thousand), the block that saw it runs the exact race of the whole row.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/gpu/row_reader.cuh>
#include <flashinfer/sampling/gpu/race.cuh>
#include <flashinfer/sampling/gpu/row_weight.cuh>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer {

template <RaceConfig kConfig>
struct RaceKernel {
  using Params = SamplingParams;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = kConfig.blocks;

  static __device__ void run(const Params& p) {
    static_assert(sizeof(Smem) <= RaceConfig::kSmemBytes);
    Smem& smem = *reinterpret_cast<Smem*>(gpu::held_dynamic_smem());
    if (threadIdx.x == 0) smem.best = order_key(kLogits ? -kInfinity : 0.0f), smem.close = false;
    __syncthreads();
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    RaceKernel(p, smem, int(blockIdx.x) / kCluster).draw();
  }

 private:
  using T = number_t<kConfig.input>;
  using Row = gpu::RowVectors<T>;
  using Group = gpu::RowGroup<kThreads, kCluster>;
  using Block = gpu::RowGroup<kThreads, 1>;
  static constexpr int kVec = Row::kVec;
  static constexpr bool kLogits = kConfig.values == RowValues::logits;
  using Vector = gpu::Vec<T, kVec>;

  struct Smem {
    typename Group::Smem group;
    typename Block::Smem block;
    uint32_t best;  // order_key of the best score of this block so far
    bool close;     // another score is too close to the best to tell
  };
  struct Scores {
    float most = -kInfinity;    // the largest element, NaN if there is one
    float second = -kInfinity;  // the best score after the best
    uint64_t best = 0;          // order_rank of the best score's key and the element's index
    __device__ float best_score() const { return value_of_order_key<float>(key_of_rank(best)); }
  };

  const Params& p_;
  Smem& smem_;
  const int row_;
  const float scale_;  // c of sampling_params.hpp
  const gpu::RaceNoise noise_;

  __device__ RaceKernel(const Params& p, Smem& smem, int row)
      : p_(p),
        smem_(smem),
        row_(row),
        scale_(kLogits ? logit_scale(p.temperature.value) : 1.0f),
        noise_(p.seed.at(row, row), p.offset.at(row, row), p.draw(row)) {}

  __device__ void draw() {
    const T* input = static_cast<const T*>(p_.input) + p_.input_row(row_) * p_.input_stride;
    Group group(smem_.group);
    Scores scores;
    race(Row(input, p_.vocab_size, kCluster, Group::rank()), scores, [this] { return bar(); },
         [&](float x, uint32_t index, uint32_t bits) {
           const float score = score_of(x, bits);
           if (score == score) raise(scores, score, index);
         });
    // The key of a NaN stands above all others.
    const auto [best, most_key] = group.max(scores.best, scores.most != scores.most ? ~0u : order_key(scores.most));
    const float most = value_of_order_key<float>(uint32_t(most_key));
    const bool valid = uint32_t(most_key) != ~0u && (kLogits ? most > -kInfinity : finite_prob(most) >= kLeastProb);
    if (Group::rank() == 0 && threadIdx.x == 0) write(valid ? index_of_rank(best) : 0u, valid);
    if constexpr (kLogits) {
      if (kCluster > 1) gpu::ptx::cluster_arrive();  // the token above is written first
      const float score = value_of_order_key<float>(key_of_rank(best)), least = score - tolerance(score);
      if (valid && scores.best && !((scores.best == best ? scores.second : scores.best_score()) < least)) smem_.close = true;
      __syncthreads();
      if (!smem_.close) return;
      if (kCluster > 1) gpu::ptx::cluster_wait();
      settle(input, most, least);
    }
  }

  __device__ void write(uint32_t token, bool valid) const {
    write_token(p_, row_, int32_t(token));
    if (p_.valid) p_.valid[row_] = valid;
  }

  /// The exact race of the row's elements that are not below `least`.
  __device__ void settle(const T* input, float most, float least) {
    gpu::RowWeight<kConfig.values> weight;
    weight.set(most, p_.temperature.value);
    uint64_t best = 0;
    Scores ignored;
    race(Row(input, p_.vocab_size, 1, 0), ignored, [least] { return least; },
         [&](float x, uint32_t index, uint32_t bits) {
           const float w = weight(x);
           if (w > 0) best = max(best, gpu::race_entry(race_score(w, bits), index));
         });
    best = Block(smem_.block).max(best);
    if (threadIdx.x == 0) write(index_of_rank(best), true);
  }

  /// How far scores may be from the logarithms of the exact ones: an approximate logarithm and the roundings of x * c on one side, those of
  /// (x - M) * c and of the exact score on the other. Ten times what these add up to.
  static __device__ float tolerance(float score) { return 1e-4f + 1e-6f * fabsf(score); }
  /// What a chance must reach to be looked at.
  __device__ float bar() const {
    const float best = value_of_order_key<float>(*static_cast<volatile uint32_t*>(&smem_.best));
    return kLogits ? best - tolerance(best) : best * (0.9998f / 4294967296.0f);
  }
  /// Not below the score but for roundings; without a logarithm of probabilities, from which a unit of random bits is taken instead.
  __device__ bool has_chance(float x, uint32_t bits, float bar) const {
    if constexpr (kLogits) {
      return !(PortableScalar::fma(x, scale_, 32.0f - gpu::ptx::lg2(float(bits))) < bar);
    } else {
      return x > 0 && x >= bar * float(bits);
    }
  }
  __device__ float score_of(float x, uint32_t bits) const {
    if constexpr (kLogits) {
      return PortableScalar::fma(finite_logit(x), scale_, -gpu::ptx::lg2(exponential_noise(bits)));
    } else {
      return race_score(finite_prob(x), bits);
    }
  }
  __device__ void raise(Scores& scores, float score, uint32_t index) const {
    const uint32_t key = order_key(score);
    const uint64_t entry = order_rank(key, index);
    if (entry > scores.best) {
      if (scores.best) scores.second = scores.best_score();
      scores.best = entry;
      if (key > *static_cast<volatile uint32_t*>(&smem_.best)) atomicMax(&smem_.best, key);
    } else {
      scores.second = fmaxf(scores.second, score);
    }
  }

  /// A first bar: each warp's likely winner of its first vectors. Without it, all of them would need a logarithm.
  __device__ void set_bar(const float (&x)[kVec], const uint32_t (&bits)[kVec], int first, int length) const {
    float likeliest = -kInfinity, likely = -kInfinity;
    uint32_t likely_bits = 0;
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float unit = float(bits[j] | 1u);
      const float chance = kLogits ? PortableScalar::fma(x[j], scale_, -gpu::ptx::lg2(unit)) : x[j] * gpu::ptx::rcp(unit);
      if (chance > likeliest && first + j >= 0 && first + j < length) likeliest = chance, likely = x[j], likely_bits = bits[j];
    }
    const uint32_t key = gpu::warp_max(likeliest > -kInfinity ? order_key(score_of(likely, likely_bits)) : 0u);
    if (threadIdx.x % gpu::kWarpSize == 0) atomicMax(&smem_.best, key);
  }

  /// visit(element, index, random bits) for those of this block's slice that have a chance.
  template <class Bar, class Visit>
  __device__ void race(const Row& row, Scores& scores, const Bar& bar, const Visit& visit) const {
    const int chunks = ceil_div(row.count, kThreads);
    const int first_whole = row.begin == 0 && row.skip > 0 ? 1 : 0;
    const uint32_t whole = uint32_t(max(min(row.count, (row.length + row.skip) / kVec - row.begin) - first_whole, 0));
    const T* slice = row.base + int64_t(row.begin) * kVec;
    auto load = [&](int chunk) {
      const int vec = chunk * kThreads + int(threadIdx.x);
      return uint32_t(vec - first_whole) < whole ? Vector::load_once(slice + int64_t(vec) * kVec) : row.load_part(vec, Row::kLeast);
    };
    Vector next = load(0), after = load(1);
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
      const Vector now = next;
      next = after;
      after = load(c + 2);
      float x[kVec];
      now.to_float(x);
#pragma unroll
      for (int j = 0; j < kVec; ++j) scores.most = gpu::ptx::max_or_nan(scores.most, x[j]);
      const int first = (row.begin + c * kThreads + int(threadIdx.x)) * kVec - row.skip;
      uint32_t bits[kVec];
#pragma unroll
      for (int j = 0; j < kVec; j += 4) noise_.bits_of(first + j, *reinterpret_cast<uint32_t(*)[4]>(bits + j));
      if (c == 0) set_bar(x, bits, first, row.length);
      const float least = bar();
      uint32_t hits = 0;
#pragma unroll
      for (int j = 0; j < kVec; ++j) hits |= has_chance(x[j], bits[j], least) ? 1u << j : 0u;
#pragma unroll 1
      for (; hits; hits &= hits - 1) {
        const int j = __ffs(int(hits)) - 1;
        float value = x[0];
        uint32_t own = bits[0];
#pragma unroll
        for (int i = 1; i < kVec; ++i) value = i == j ? x[i] : value, own = i == j ? bits[i] : own;
        if (first + j >= 0 && first + j < row.length) visit(value, uint32_t(first + j), own);
      }
    }
  }
};

}  // namespace flashinfer
