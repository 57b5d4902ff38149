// Draws a token from each row of logits or probabilities, of all or of what top_p and min_p keep, reading the row as it comes.
// Called by sampling/gpu/sampling.hpp; twin of sampling/cpu/sampling.hpp: the same token wins, bit for bit.
//
// Bound by: memory, one read of the row; for few rows by the chain load, race, one barrier of the cluster. Some 100 instructions for four
//           elements, half of them Philox, hide behind the loads (H100, 512 rows: 91 us, the read 87); with min_p most vectors need none
//           of them.
// Threads:  a cluster of blocks a row, each with a slice of it.
// Memory:   a ring in shared memory that each thread fills and reads for itself, so that nobody waits for anybody; nothing of a row is
//           kept. Tried: a slice a block that stays in shared memory. A cluster of 8 takes 15 us, half of them without a load on its way,
//           and 512 rows with top_p 216 us instead of 170.
// Method:   probabilities race as they are, and their scores are exact. What a logit weighs depends on the row's maximum, which nobody
//           knows before the end, so logits race by the logarithms of their scores, approximately. Where a second score is so close to the
//           best that the approximation cannot tell (one row in ten thousand), an exact race follows.
//           min_p is relative to the maximum too: what it keeps of the maximum so far races, which is more than it keeps in the end. A
//           winner that it does not keep in the end was early in the row; then those that it keeps race again.
//           Nobody looks for the boundary of top_p: the token that wins without it also wins with it if the mass before it is less than
//           top_p wants; else neither it nor anything after it is kept, and those before it race again. A row takes 1 + ln(1 / top_p)
//           races in the mean, whatever its shape. The mass before a probability is bounded by counts of the first read (prob_counts.cuh);
//           where these can not tell, and for logits, the row is read again.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/gpu/row_stream.cuh>
#include <flashinfer/sampling/gpu/prob_counts.cuh>
#include <flashinfer/sampling/gpu/race.cuh>
#include <flashinfer/sampling/gpu/row_weight.cuh>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer {

template <RaceConfig kConfig>
struct RaceKernel {
  using Params = SamplingParams;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = kConfig.blocks;

  static __device__ void run(const Params& p) {
    static_assert(sizeof(Smem) <= kConfig.smem_bytes());
    Smem& smem = *reinterpret_cast<Smem*>(gpu::held_dynamic_smem());
    if constexpr (kConfig.counts()) Counts(smem.counts).clear();
    if (kCluster > 1) Group::sync();  // every block has begun
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    const int row = int(blockIdx.x) / kCluster;
    if (p.mixed && p.sampler_of(row) != RowSampler::race) return;  // every block of the cluster
    RaceKernel(p, smem, row).draw();
    if (kCluster > 1) Group::sync();  // no block leaves while another may write to its shared memory
  }

 private:
  using T = number_t<kConfig.input>;
  using Row = gpu::RowVectors<T>;
  using Group = gpu::RowGroup<kThreads, kCluster>;
  using Weight = gpu::RowWeight<kConfig.values>;
  using Prefix = gpu::RowPrefix;
  using Noise = gpu::RaceNoise<!kConfig.min_p>;  // with min_p few vectors race
  using Stream = gpu::RowStream<T, kThreads, RaceConfig::kStages>;
  using Counts = gpu::ProbCounts<kThreads>;
  static constexpr int kVec = Row::kVec;
  static constexpr bool kLogits = kConfig.values == RowValues::logits;

  struct NoCounts {};
  struct Smem {
    typename Stream::Smem stream;
    typename Group::Smem group;
    uint32_t best;  // key_of the best score of this block so far
    uint32_t most;  // min_p: order_key of its largest element so far
    conditional_t<kConfig.counts(), typename Counts::Smem, NoCounts> counts;
  };
  /// Keys have the order of scores. Those of probabilities are not negative, and their bits will do.
  static __device__ uint32_t key_of(float score) { return kLogits ? order_key(score) : bit_cast<uint32_t>(score); }
  static __device__ float score_of_key(uint32_t key) { return kLogits ? value_of_order_key<float>(key) : bit_cast<float>(key); }
  /// What a thread has seen.
  struct Scores {
    float most = -kInfinity;    // the largest element, NaN if there is one
    float second = -kInfinity;  // the best score after the best
    uint64_t best = 0;          // order_rank of the best score's key and the element's index
    __device__ float best_score() const { return score_of_key(key_of_rank(best)); }
  };

  const Params& p_;
  Smem& smem_;
  const int row_;
  const T* const input_;
  const Row slice_;
  Group group_;
  Weight weight_;
  float least_in_total_ = -kInfinity;  // min_p, top_p: the least element that belongs to the mass
  float seen_ = 0;                     // with counts: the mass of what this thread has read

  __device__ RaceKernel(const Params& p, Smem& smem, int row)
      : p_(p),
        smem_(smem),
        row_(row),
        input_(static_cast<const T*>(p.input) + p.input_row(row) * p.input_stride),
        slice_(input_, p.vocab_size, kCluster, Group::rank()),
        group_(smem.group) {
    if (kLogits) weight_.scale = logit_scale(temperature());
  }
  __device__ float temperature() const { return p_.temperature.at(row_, p_.input_row(row_)); }

  __device__ void draw() {
    const float top_p = kConfig.top_p ? p_.top_p.at(row_, p_.input_row(row_)) : 1.0f;
    for (Prefix rest{gpu::kLowestRank, 0};;) {
      const uint64_t winner = race(rest);
      const bool valid = winner != 0;
      if (!valid || !kConfig.top_p || top_p >= 1) return write(valid ? index_of_rank(winner) : 0, valid);
      const uint64_t rank = rank_of(winner);
      if (is_kept(rank, top_p)) return write(index_of_rank(winner), true);
      rest.rank = rank + 1;
    }
  }
  /// Of the element that has this score.
  __device__ uint64_t rank_of(uint64_t entry) const {
    const uint32_t token = index_of_rank(entry);
    return order_rank(order_key(gpu::load_float(input_ + token)), token);
  }

  __device__ void write(uint32_t token, bool valid) const {
    if (Group::rank() != 0 || threadIdx.x != 0) return;
    write_token(p_, row_, int32_t(token));
    if (p_.valid) p_.valid[row_] = valid;
  }

  static constexpr float kUnit = 134217728.0f, kMost = 8388608.0f;  // masses in messages: 27 bits behind the point, less than kMost
  static constexpr float kRoundings = 1e-4f;                        // of sums of floats

  enum class Verdict { kept, refused, unknown };
  /// Whether what lies before `rank` weighs less than top_p of the row, or of what min_p keeps of it.
  __device__ bool is_kept(uint64_t rank, float top_p) {
    Verdict verdict;
    if constexpr (kConfig.counts()) {
      verdict = by_counts(rank, top_p);
    } else {
      verdict = by_sums(rank, top_p);
    }
    return verdict == Verdict::unknown ? by_masses(rank, top_p) : verdict == Verdict::kept;
  }
  /// Without another look at the row.
  __device__ Verdict by_counts(uint64_t rank, float top_p) {
    const float value = value_of_order_key<float>(key_of_rank(rank)), share = fmaxf(top_p, 0.0f);
    const auto [least, most] = Counts(smem_.counts).above(value, seen_);
    const float total = seen_ * weight_.scale, own = Group::rank() == 0 && threadIdx.x == 0 ? value * weight_.scale : 0.0f;
    float too_much = fminf(most * weight_.scale, kMost) - own - (share - kRoundings) * total;
    float enough = least * weight_.scale - (share + kRoundings) * total;
    if (!(total < kMost)) too_much = kMost, enough = -kMost;
    const auto sums = group_.sum(uint64_t(int64_t(too_much * kUnit)), uint64_t(int64_t(enough * kUnit)));
    return int64_t(sums.first) < 0 ? Verdict::kept : int64_t(sums.second) > 0 ? Verdict::refused : Verdict::unknown;
  }
  /// By sums of floats, half the instructions of exact masses. Backwards: what was read last may be in L2 still.
  __device__ Verdict by_sums(uint64_t rank, float top_p) {
    const float value = value_of_order_key<float>(key_of_rank(rank));
    float total = 0, above = 0;
    int ties = 0;  // elements equal to the value: one, or it matters which come before
    for_each<true>([&](const float(&x)[kVec], int) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        const float f = kLogits ? gpu::ptx::ex2((x[j] - weight_.max) * weight_.scale) : fmaxf(x[j], 0.0f);
        if (in_total(x[j])) total += f;
        if (x[j] > value) above += f;
        if (x[j] == value) ++ties;
      }
    });
    // In one message, in units of the largest element; infinite ones count as ties.
    constexpr int kTieBits = 15;
    static_assert(2 * kThreads * kCluster < 1 << kTieBits);
    if (!kLogits) total *= weight_.scale, above *= weight_.scale;
    if (!(total < kMost)) total = above = 0, ties = 2;
    const auto sums = group_.sum(uint64_t(total * kUnit), uint64_t(above * kUnit) << kTieBits | uint64_t(min(ties, 2)));
    const float whole = float(sums.first), part = float(sums.second >> kTieBits), error = kRoundings * (whole + kUnit);
    const float needed = fmaxf(top_p, 0.0f) * whole;
    if (sums.second % (1u << kTieBits) != 1) return Verdict::unknown;
    return part + error < needed ? Verdict::kept : part - error > needed ? Verdict::refused : Verdict::unknown;
  }
  /// Exactly.
  __device__ bool by_masses(uint64_t rank, float top_p) {
    gpu::MassSum sum, before;
    const Prefix::Test is_before = Prefix{rank + 1, 0}.test();
    for_each<true>([&](const float(&x)[kVec], int first) {
      float f[kVec];
      bool counts[kVec];
#pragma unroll
      for (int j = 0; j < kVec; ++j) f[j] = weight_(in_total(x[j]) ? x[j] : -kInfinity), counts[j] = is_before(x[j], first + j);
      sum.add(f, counts, before);
    });
    const auto [total, mass] = group_.sum(sum.total(), before.total());
    return mass < needed_mass(top_p, total);
  }
  /// Whether an element belongs to the mass that top_p is a share of. Those before a rank that min_p keeps do.
  __device__ bool in_total(float x) const { return !kConfig.min_p || x >= least_in_total_; }

  /// The winner among the elements of `rest`, in every thread: its index is that of the rank. 0 for a row that is not valid. The first
  /// race finds the maximum too, and what min_p keeps, which then is the rest.
  __device__ uint64_t race(Prefix& rest) {
    const Noise noise(p_.seed.at(row_, row_), p_.offset.at(row_, row_), p_.draw(row_));
    const float min_p = kConfig.min_p ? p_.min_p.at(row_, p_.input_row(row_)) : 0.0f;
    const float limit = kLogits ? least_exponent(min_p) : min_p;
    while (true) {
      const bool first = rest.rank == gpu::kLowestRank;
      if (threadIdx.x == 0) smem_.best = key_of(kLogits ? -kInfinity : 0.0f), smem_.most = order_key(-kInfinity);
      __syncthreads();
      Scores scores;
      go_over(
          noise, rest, limit, scores, [this] { return bar(); },
          [&](float x, uint32_t index, uint32_t bits) { raise(scores, score_of(x, bits), index); });
      // The key of a NaN stands above all others.
      const auto [best, most_key] = group_.max(scores.best, scores.most != scores.most ? ~0u : order_key(scores.most));
      if (first && (uint32_t(most_key) == ~0u || !weight_.set(value_of_order_key<float>(uint32_t(most_key)), temperature()))) return 0;
      if (kConfig.min_p && first) {
        rest.rank = weight_.floor(min_p);
        least_in_total_ = p_.joint ? -kInfinity : value_of_order_key<float>(key_of_rank(rest.rank));
        if (best && rank_of(best) < rest.rank) continue;
      }
      if constexpr (kLogits) {
        const float score = score_of_key(key_of_rank(best)), least = score - tolerance(score);
        const bool close = scores.best && !((scores.best == best ? scores.second : scores.best_score()) < least);
        if (group_.max(close)) {
          uint64_t exact = 0;
          go_over(
              noise, rest, limit, scores, [least] { return least; },
              [&](float x, uint32_t index, uint32_t bits) {
                const float w = weight_(x);
                if (w > 0) exact = max(exact, gpu::race_entry(race_score(w, bits), index));
              });
          return group_.max(exact);
        }
      }
      return best;
    }
  }

  /// How far scores may be from the logarithms of the exact ones: an approximate logarithm and the roundings of x * c on one side, those of
  /// (x - M) * c and of the exact score on the other. Ten times what these add up to.
  static __device__ float tolerance(float score) { return 1e-4f + 1e-6f * fabsf(score); }
  /// What a chance must reach to be looked at.
  __device__ float bar() const {
    const float best = score_of_key(*static_cast<volatile uint32_t*>(&smem_.best));
    return kLogits ? best - tolerance(best) : best * (0.9998f / 4294967296.0f);
  }
  /// Not below the score but for roundings; without a logarithm for probabilities, whose bar is for a unit of the random bits.
  __device__ bool has_chance(float x, uint32_t bits, float bar) const {
    if constexpr (kLogits) {
      return !(PortableScalar::fma(x, weight_.scale, 32.0f - gpu::ptx::lg2(float(bits))) < bar);
    } else {
      return x >= bar * float(bits);
    }
  }
  __device__ float score_of(float x, uint32_t bits) const {
    if constexpr (kLogits) {
      return PortableScalar::fma(finite_logit(x), weight_.scale, -gpu::ptx::lg2(exponential_noise(bits)));
    } else {
      return race_score(finite_prob(x), bits);
    }
  }
  __device__ void raise(Scores& scores, float score, uint32_t index) const {
    if (kLogits ? score != score : !(score > 0)) return;
    const uint32_t key = key_of(score);
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
  template <class Counts>
  __device__ void set_bar(const float (&x)[kVec], const uint32_t (&bits)[kVec], int first, const Counts& counts) const {
    float likeliest = -kInfinity, likely = -kInfinity;
    uint32_t likely_bits = 0;
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float unit = float(bits[j] | 1u);
      const float chance = kLogits ? PortableScalar::fma(x[j], weight_.scale, -gpu::ptx::lg2(unit)) : x[j] * gpu::ptx::rcp(unit);
      if (chance > likeliest && counts(x[j], first + j)) likeliest = chance, likely = x[j], likely_bits = bits[j];
    }
    const uint32_t key = gpu::warp_max(likeliest > (kLogits ? -kInfinity : 0.0f) ? key_of(score_of(likely, likely_bits)) : 0u);
    if (threadIdx.x % gpu::kWarpSize == 0) atomicMax(&smem_.best, key);
  }

  /// The block's largest element so far, with this one. A warp's first elements in one message.
  __device__ float raise_most(float largest, bool at_first) const {
    uint32_t key = order_key(largest);
    volatile uint32_t& most = smem_.most;
    if (at_first) key = gpu::warp_max(key);
    if (key > most && (!at_first || threadIdx.x % gpu::kWarpSize == 0)) atomicMax(&smem_.most, key);
    return value_of_order_key<float>(max(key, uint32_t(most)));
  }
  /// Whether min_p keeps an element of a row with this maximum. Monotone in both, with the roundings of RowWeight::floor: what it keeps of
  /// the row's maximum it keeps of smaller ones.
  __device__ bool is_likely(float x, float most, float limit) const {
    return kLogits ? logit_exponent(x, finite_logit(most), weight_.scale) >= limit : x >= least_prob(limit, finite_prob(most));
  }

  /// visit(element, index, random bits) for those elements of this block's slice that belong to `rest` and have a chance; in the first race
  /// also to what min_p keeps of the elements so far.
  template <class Bar, class Visit>
  __device__ void go_over(const Noise& noise, const Prefix& rest, float limit, Scores& scores, const Bar& bar, const Visit& visit) {
    const Prefix::Test in_rest = rest.test();
    const bool all = rest.rank == gpu::kLowestRank;
    bool at_first = true;
    for_each<false>([&](const float(&x)[kVec], int first) {
      float most = -kInfinity;
      if (all) {  // the first race sees every element
#pragma unroll
        for (int j = 0; j < kVec; ++j) scores.most = gpu::ptx::max_or_nan(scores.most, x[j]);
        if constexpr (kConfig.counts()) {
#pragma unroll
          for (int j = 0; j < kVec; ++j) seen_ += fmaxf(x[j], 0.0f), Counts(smem_.counts).add(x[j]);
        }
        if constexpr (kConfig.min_p) {
          float largest = x[0];
#pragma unroll
          for (int j = 1; j < kVec; ++j) largest = fmaxf(largest, x[j]);
          most = raise_most(largest, at_first);
          if (!__any_sync(0xffffffffu, is_likely(largest, most, limit))) return;
        }
      } else {
        bool any = false;
#pragma unroll
        for (int j = 0; j < kVec; ++j) any |= in_rest.reaches(x[j]);
        if (!__any_sync(0xffffffffu, any)) return;
      }
      const auto counts = [&](float value, int index) {
        return in_rest(value, index) && index >= 0 && index < slice_.length && (!kConfig.min_p || !all || is_likely(value, most, limit));
      };
      uint32_t bits[kVec];
#pragma unroll
      for (int j = 0; j < kVec; j += 4) {
        uint32_t of_four[4];
        noise.bits_of(first + j, of_four);
#pragma unroll
        for (int i = 0; i < 4; ++i) bits[j + i] = of_four[i];
      }
      if (at_first) set_bar(x, bits, first, counts), at_first = false;
      const float least = bar();
      bool any = false;
#pragma unroll
      for (int j = 0; j < kVec; ++j) any |= has_chance(x[j], bits[j], least);
      if (!any) return;
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
        if (counts(value, first + j)) visit(value, uint32_t(first + j), own);
      }
    });
  }

  /// f(elements, index of the first, which may be negative) for the vectors of this thread, all lanes of a warp together, with -inf for
  /// what lies outside the row or the slice.
  template <bool kBackwards, class F>
  __device__ void for_each(const F& f) {
    const int chunks = ceil_div(slice_.count, kThreads), thread = int(threadIdx.x);
    const int start = kBackwards ? (chunks - 1) * kThreads + thread : thread;
    Stream::for_each(smem_.stream, slice_, start, kBackwards ? -kThreads : kThreads, chunks, Row::kLeast,
                     [&](const typename Stream::Vector& v, int vec) {
                       float x[kVec];
                       v.to_float(x);
                       f(x, (slice_.begin + vec) * kVec - slice_.skip);
                     });
  }
};

}  // namespace flashinfer
