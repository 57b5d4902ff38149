// Draws a token from each row of logits or probabilities, of all or of what top_p and min_p keep, reading the row as it comes.
// Called by sampling/gpu/sampling.hpp; twin of sampling/cpu/sampling.hpp: the same token wins, bit for bit.
//
// Bound by: memory, one read of the row; for few rows by the chain load, race, one barrier of the cluster. Some 90 instructions for four
//           elements, a third of them Philox, hide behind the loads (H100, 512 rows: 91 us, the read 87); with min_p most vectors need none
//           of them. With top_p a launch waits for the row that is refused most often, or that counts cannot decide: of 26 us that 512 rows
//           take longer, counting is 4.
// Threads:  a cluster of blocks a row, each with a slice of it.
// Memory:   a ring in shared memory that each thread fills and reads for itself, so that nobody waits for anybody. Where rows are few and
//           min_p filters it holds all of a block's slice: looks after the first cost little. (Not where rows are many: a cluster of 8
//           takes 15 us, half of them without a load on its way, and 512 rows with top_p 216 us instead of 170.)
// Method:   probabilities race as they are, and their scores are exact. What a logit weighs depends on the row's maximum, which nobody
//           knows before the end, so logits race by the logarithms of their scores, approximately. Where a second score is so close to the
//           best that the approximation cannot tell (one row in ten thousand), an exact race follows.
//           min_p is relative to the maximum too: what it keeps of the maximum so far races, which is more than it keeps in the end. A
//           winner that it does not keep in the end was early in the row; then those that it keeps race again. Of a slice that is held the
//           maximum is found first.
//           Nobody looks for the boundary of top_p: the token that wins without it also wins with it if the mass before it is less than
//           top_p wants; else neither it nor anything after it is kept, and those before it race again. A row takes 1 + ln(1 / top_p)
//           races in the mean, whatever its shape. The mass before a probability is bounded by counts of the first read
//           (weight_counts.cuh); where these can not tell, for logits, and of slices that are held, the row is looked at again. Where rows
//           are many the counts tell where the boundary is, but for a bin, and no row races more often than twice; in larger clusters,
//           whose rounds cost more, one message says who wins, whether it is kept, and who is next. Columns, parts of a block, race for
//           themselves. If the best of a column is kept, it is the best of all that it has and is kept; so only those race again whose best
//           is not kept and better than the best that is: mostly one, a warp's share. Where a thread has a few vectors only, there is one
//           column a block: every column has its first elements to look at.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/ptx/prefetch.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/gpu/row_ring.cuh>
#include <flashinfer/gpu/row_stream.cuh>
#include <flashinfer/sampling/gpu/race.cuh>
#include <flashinfer/sampling/gpu/row_weight.cuh>
#include <flashinfer/sampling/gpu/weight_counts.cuh>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer {

template <RaceConfig kConfig>
struct RaceKernel {
  using Params = SamplingParams;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = kConfig.blocks;

  static __device__ void run(const Params& p) {
    static_assert(sizeof(Smem) <= kConfig.smem_bytes());
    Smem& smem = *reinterpret_cast<Smem*>(gpu::held_dynamic_smem());
    if constexpr (kCounts) Counts(smem.counts).clear();
    if (kCluster > 1) Group::sync();  // every block has begun
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    const int row = int(blockIdx.x) / kCluster;
    if (p.mixed && p.sampler_of(row) != RowSampler::race) return;  // every block of the cluster
    RaceKernel(p, smem, row).draw();
  }

 private:
  using T = number_t<kConfig.input>;
  using Row = gpu::RowVectors<T>;
  static constexpr bool kLogits = kConfig.values == RowValues::logits;
  // With counts: pairs find the edges of what is kept, larger clusters ask for each that seems to win.
  static constexpr bool kCounts = kConfig.counts(), kEdges = kCounts && kCluster <= 2, kAsks = kCounts && !kEdges;
  using Group = gpu::RowGroup<kThreads, kCluster, kAsks ? 4 : 2>;
  using Weight = gpu::RaceWeight<kConfig.values>;
  using Prefix = gpu::RowPrefix;
  using Noise = gpu::RaceNoise<!kConfig.min_p>;  // with min_p few vectors race
  using Stream = gpu::RowStream<T, kThreads, RaceConfig::kStages>;
  using Counts = gpu::WeightCounts<kConfig.values, kThreads, Group, kCluster, kCounts ? kConfig.count_bits : 7>;
  static constexpr int kVec = Row::kVec;
  // A column is what these threads of a block read.
  static constexpr int kColumns = kConfig.columns, kColumnThreads = kThreads / kColumns;
  static constexpr bool kKnows = kColumns > 1 || kAsks;  // columns know their best
  static constexpr bool kWeighs = kCounts && kLogits;    // all logits are weighed to be counted, and race by these weights
  static_assert(kColumnThreads % gpu::kWarpSize == 0 && kColumnThreads * kColumns == kThreads);
  static constexpr uint32_t kPadding = kLogits ? Row::kLeast : 0u;  // nothing wins with it
  static constexpr bool kHeld = kConfig.chunks > 0;
  static_assert(!kHeld || kColumns == 1);
  struct Streamed {  // every look begins anew
    using Smem = typename Stream::Smem;
    __device__ Streamed(const Smem&, const Row&) {}
  };
  using Slice = conditional_t<kHeld, gpu::RowRing<T, kThreads, max(kConfig.chunks, 1), kPadding>, Streamed>;

  struct NoCounts {};
  struct Smem {
    typename Slice::Smem slice;
    typename Group::Smem group;
    unsigned long long column[kColumns];  // its best, as Scores::best, if it knows it
    uint32_t best[kColumns];              // key_of its best score so far, or of the weight to have a chance beside it
    uint32_t most;                        // min_p: order_key of the block's largest element so far
    conditional_t<kCounts, typename Counts::Smem, NoCounts> counts;
  };
  /// What a thread has seen.
  struct Scores {
    float most = -kInfinity;    // the largest element, NaN if there is one
    float second = -kInfinity;  // the best score after the best
    uint64_t best = 0;          // order_rank of the best score's key and the element's index
    __device__ float best_score() const { return Weight::score_of_key(key_of_rank(best)); }
  };

  const Params& p_;
  Smem& smem_;
  const int row_;
  const T* const input_;
  const Row slice_;
  Slice held_;
  Group group_;
  Weight weight_;
  float least_in_total_ = -kInfinity;  // min_p, top_p: the least element that belongs to the mass
  float anchor_ = 0;                   // with counts: logits weigh 2^(x * scale - anchor), the same in every block
  float seen_ = 0;                     // with counts: the mass of what this thread has read; of probabilities twice, NaN with -inf
  typename Counts::Edges edges_ = {};  // where top_p is reached
  uint64_t refused_ = 0;               // the largest rank that surely is not kept

  __device__ RaceKernel(const Params& p, Smem& smem, int row)
      : p_(p),
        smem_(smem),
        row_(row),
        input_(static_cast<const T*>(p.input) + p.input_row(row) * p.input_stride),
        slice_(input_, p.vocab_size, kCluster, Group::rank()),
        held_(smem.slice, slice_),
        group_(smem.group) {
    if (kLogits) weight_.scale = logit_scale(temperature());
  }
  __device__ float temperature() const { return p_.temperature.at(row_, p_.input_row(row_)); }

  __device__ void draw() {
    const Noise noise(p_.seed.at(row_, row_), p_.offset.at(row_, row_), p_.draw(row_));
    const float top_p = kConfig.top_p ? p_.top_p.at(row_, p_.input_row(row_)) : 1.0f;
    uint64_t winner = race(noise);
    if constexpr (kConfig.top_p) {
      if (winner && !(top_p >= 1)) winner = kept_winner(noise, winner, top_p);
    }
    if (Group::rank() != 0 || threadIdx.x != 0) return;
    write_token(p_, row_, winner ? int32_t(index_of_rank(winner)) : 0);
    if (p_.valid) p_.valid[row_] = winner != 0;
  }
  /// The winner among what top_p keeps, where this one wins without it.
  __device__ uint64_t kept_winner(const Noise& noise, uint64_t winner, float top_p) {
    if constexpr (kAsks) {
      return judge(noise, winner, top_p);
    } else {
      if constexpr (kEdges) find_edges(top_p);
      while (winner && !is_kept(rank_of(winner), top_p)) {
        if (!kHeld) prefetch_column_of(index_of_rank(winner));
        winner = race_again(noise, max(rank_of(winner), refused_) + 1);
      }
      return winner;
    }
  }
  /// Of the element that has this score.
  __device__ uint64_t rank_of(uint64_t entry) const {
    const uint32_t token = index_of_rank(entry);
    return order_rank(order_key(gpu::load_float(input_ + token)), token);
  }

  static constexpr float kUnit = 134217728.0f, kMost = 8388608.0f;  // masses in messages: 27 bits behind the point, less than kMost
  /// Of sums of floats, relative to them.
  __device__ float roundings() const { return fmaxf(1e-4f, 6e-8f * float(chunks() * kVec)); }

  enum class Verdict { kept, refused, unknown };
  /// Whether what lies before `rank` weighs less than top_p of the row, or of what min_p keeps of it.
  __device__ bool is_kept(uint64_t rank, float top_p) {
    Verdict verdict = Verdict::unknown;
    if constexpr (kEdges) verdict = by_edges(rank);
    return verdict == Verdict::unknown ? is_kept_in_row(rank, top_p) : verdict == Verdict::kept;
  }
  /// By another look at the row, or two. Exact masses of logits take 40 us a row, of probabilities 15; sums of floats 15.
  __device__ bool is_kept_in_row(uint64_t rank, float top_p) {
    Verdict verdict = Verdict::unknown;
    if constexpr (!kCounts || kLogits) verdict = by_sums(rank, top_p);
    return verdict == Verdict::unknown ? by_masses(rank, top_p) : verdict == Verdict::kept;
  }
  /// Without another look at the row. At once for all that may win: H100, us at 64 / 128 / 512 rows 24.4 / 37.7 / 112, by sums for each
  /// that wins 26.9 / 40.5 / 115, with a top_p of 0.5 26.4 / 42.6 / 124 and 36.5 / 51.5 / 130. In larger clusters sums are told sooner.
  __device__ void find_edges(float top_p) {
    edges_ = Counts(smem_.counts).find(fmaxf(top_p, 0.0f), counted(weight_.max), roundings());
    if (edges_.first < 0) return;
    const float edge = Counts::edge(edges_.first);
    const float refused = kLogits ? (gpu::ptx::lg2(edge * (1 - 1e-4f)) + anchor_) / weight_.scale : edge;
    // Logits around a large anchor are coarse.
    if (!kLogits || counted(refused) * (1 + Counts::kSlack) < edge)
      refused_ = order_rank(order_key(refused), uint32_t(p_.vocab_size - 1)) - 1;
  }
  __device__ Verdict by_edges(uint64_t rank) const {
    const float weight = counted(value_of_order_key<float>(key_of_rank(rank)));
    if (Counts::bin_or_none(weight * (1 - Counts::kSlack)) > edges_.last) return Verdict::kept;
    return Counts::bin_or_none(weight * (1 + Counts::kSlack)) < edges_.first ? Verdict::refused : Verdict::unknown;
  }
  /// What an element weighs where weights are counted.
  __device__ float counted(float x) const { return kLogits ? gpu::ptx::ex2(PortableScalar::fma(x, weight_.scale, -anchor_)) : x; }
  /// One message a round for clusters, whose rounds cost more: the mass before who seems to win, who really does after columns have raced
  /// again, and who is next if it is refused.
  struct Judgement {
    uint64_t too_much = 0, enough = 0, best = 0, next = 0;
    __device__ Judgement of_warp() const {
      return {gpu::warp_sum(too_much), gpu::warp_sum(enough), gpu::warp_max(best), gpu::warp_max(next)};
    }
  };
  __device__ uint64_t judge(const Noise& noise, uint64_t winner, float top_p) {
    uint64_t floor = gpu::kLowestRank;
    while (winner) {
      const uint64_t best = best_of_lane(), rank = best ? rank_of(best) : 0, rank_of_winner = rank_of(winner);
      const auto [too_much, enough] = by_counts(rank_of_winner, top_p);
      const Judgement judgement =
          group_.all(Judgement{too_much, enough, kLogits || rank < floor ? 0 : best, rank > rank_of_winner ? best : 0});
      if (judgement.best > winner) {
        winner = judgement.best;
        continue;
      }
      const Verdict verdict = verdict_of({judgement.too_much, judgement.enough});
      if (verdict == Verdict::kept || (verdict == Verdict::unknown && is_kept_in_row(rank_of_winner, top_p))) return winner;
      prefetch_column_of(index_of_rank(winner));
      floor = rank_of_winner + 1, winner = judgement.next;
      if constexpr (kLogits) {  // columns know them approximately
        winner = race_known(noise, floor, winner);
      } else {
        const float bar = winner ? Weight::bar_of(Weight::score_of_key(key_of_rank(winner))) : 0.0f;
        const uint64_t raced = race_columns(noise, floor, __ballot_sync(0xffffffffu, rank < floor && best > winner), bar, 0);
        if (!winner) winner = group_.max(raced);
      }
    }
    return 0;
  }
  /// What a thread knows of the mass before this one: by how much it is at most too much, and at least enough for it to be refused.
  __device__ typename Group::Pair by_counts(uint64_t rank, float top_p) const {
    const float weight = counted(value_of_order_key<float>(key_of_rank(rank))), largest = counted(weight_.max);
    const auto [least, most] = Counts(smem_.counts).above(weight, largest, seen());
    const float unit = kLogits ? 1 / largest : weight_.scale, share = fmaxf(top_p, 0.0f);
    const float total = seen() * unit, own = Group::rank() == 0 && threadIdx.x == 0 ? weight * unit : 0.0f;
    float too_much = fminf(most * unit, kMost) - own - (share - roundings()) * total;
    float enough = least * unit - (share + roundings()) * total;
    if (!(total < kMost && largest < Counts::kEnd)) too_much = kMost, enough = -kMost;
    return {uint64_t(int64_t(too_much * kUnit)), uint64_t(int64_t(enough * kUnit))};
  }
  __device__ static Verdict verdict_of(const typename Group::Pair& sums) {
    return int64_t(sums.first) < 0 ? Verdict::kept : int64_t(sums.second) > 0 ? Verdict::refused : Verdict::unknown;
  }
  __device__ float seen() const { return kLogits ? seen_ : 0.5f * seen_; }
  /// By sums of floats, a fifth of the instructions of a logit's exact mass, half of a probability's. Backwards: what was read last may be
  /// in L2 still.
  __device__ Verdict by_sums(uint64_t rank, float top_p) {
    float total = 0, before = 0;
    const Prefix::Test is_before = Prefix{rank + 1, 0}.test();
    for_each_backwards([&](const float(&x)[kVec], int first) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        const float f = kLogits ? gpu::ptx::ex2((fminf(x[j], weight_.max) - weight_.max) * weight_.scale) : weight_(x[j]);
        if (in_total(x[j])) total += f;
        if (is_before(x[j], first + j)) before += f;
      }
    });
    const auto sums = group_.sum(uint64_t(total * kUnit), uint64_t(before * kUnit));
    const float whole = float(sums.first), part = float(sums.second), error = roundings() * (whole + kUnit);
    const float needed = fmaxf(top_p, 0.0f) * whole;
    return part + error < needed ? Verdict::kept : part - error > needed ? Verdict::refused : Verdict::unknown;
  }
  /// Exactly.
  __device__ bool by_masses(uint64_t rank, float top_p) {
    gpu::MassSum sum, before;
    const Prefix::Test is_before = Prefix{rank + 1, 0}.test();
    for_each_backwards([&](const float(&x)[kVec], int first) {
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

  /// What the threads have seen together.
  struct Outcome {
    uint64_t best = 0;
    uint32_t second = 0, most = 0;  // keys
    __device__ Outcome of_warp() const {
      const uint64_t of_all = gpu::warp_max(best);
      return {of_all, kLogits ? gpu::warp_max(best == of_all ? second : key_of_rank(best)) : 0, gpu::warp_max(most)};
    }
  };

  /// The winner of the row, or of what min_p keeps of it, in every thread: its index is that of the rank. 0 for a row that is not valid.
  __device__ uint64_t race(const Noise& noise) {
    const float min_p = kConfig.min_p ? p_.min_p.at(row_, p_.input_row(row_)) : 0.0f;
    if (threadIdx.x < kColumns) smem_.best[threadIdx.x] = key_of(kLogits ? -kInfinity : 0.0f), smem_.column[threadIdx.x] = 0;
    if (threadIdx.x == 0) smem_.most = order_key(-kInfinity);
    __syncthreads();
    if constexpr (kHeld && kConfig.min_p) find_most();
    if constexpr (kWeighs) {
      Stream::start(smem_.slice, slice_, int(threadIdx.x), kThreads);
      set_anchor();
    }
    const Scores scores = go_over(noise, kLogits ? least_exponent(min_p) : min_p);
    if constexpr (kEdges) Counts(smem_.counts).tell(seen());
    if constexpr (kKnows) {
      const uint64_t best = gpu::warp_max(scores.best);
      if (threadIdx.x % gpu::kWarpSize == 0) raise_column(int(threadIdx.x) / kColumnThreads, best);
    }
    // The key of a NaN stands above all others.
    const Outcome outcome =
        group_.all(Outcome{scores.best, Weight::key_of(scores.second), scores.most != scores.most ? ~0u : order_key(scores.most)});
    const uint64_t best = outcome.best;
    if (outcome.most == ~0u || !weight_.set(value_of_order_key<float>(outcome.most), temperature())) return 0;
    uint64_t floor = gpu::kLowestRank;
    if constexpr (kConfig.min_p) {
      floor = weight_.floor(min_p);
      least_in_total_ = p_.joint ? -kInfinity : value_of_order_key<float>(key_of_rank(floor));
      if (best && rank_of(best) < floor) return race_again(noise, floor);
    }
    if constexpr (kLogits) {
      const float least = Weight::bar_of(Weight::score_of_key(key_of_rank(best)));
      if (!(Weight::score_of_key(outcome.second) < least)) return race_again(noise, floor, least);
    }
    return best;
  }

  /// Into L2: the column of a winner that is refused has to race again in any case, and the others wait for it.
  __device__ void prefetch_column_of(uint32_t index) const {
    if (!slice_.holds(int(index))) return;
    constexpr int kLine = 8, kLines = kColumnThreads / kLine;  // vectors, of 16 bytes
    const int column = ((int(index) + slice_.skip) / kVec - slice_.begin) % kThreads / kColumnThreads;
    for (int i = gpu::ptx::opaque(int(threadIdx.x)); i < chunks() * kLines; i += kThreads) {
      const int vec = i / kLines * kThreads + column * kColumnThreads + i % kLines * kLine;
      if (slice_.is_whole(vec)) gpu::ptx::prefetch_l2(slice_.base + int64_t(slice_.begin + vec) * kVec);
    }
  }
  /// The winner among the elements from rank `floor` up, by exact scores; of those that have a chance with this bar, or one that columns
  /// know.
  __device__ uint64_t race_again(const Noise& noise, uint64_t floor, float least_chance = kLogits ? -kInfinity : 0.0f) {
    if constexpr (kKnows) {
      const uint64_t best = best_of_lane();
      return race_known(noise, floor, group_.max(best && rank_of(best) >= floor ? best : 0));
    } else {
      return group_.max(race_columns(noise, floor, 1, least_chance, 0));
    }
  }
  /// The same, where the best that columns know of these elements is this, or 0.
  __device__ uint64_t race_known(const Noise& noise, uint64_t floor, uint64_t known) {
    const uint64_t best = best_of_lane();
    float bar = kLogits ? -kInfinity : 0.0f;
    if (known) bar = Weight::bar_of(Weight::score_of_key(key_of_rank(known)));
    if constexpr (kLogits) {  // known approximately
      const uint32_t again = __ballot_sync(0xffffffffu, best && !(Weight::score_of_key(key_of_rank(best)) < bar));
      return group_.max(race_columns(noise, floor, again, bar, 0));
    } else {
      return group_.max(race_columns(noise, floor, __ballot_sync(0xffffffffu, best > known), bar, known));
    }
  }
  /// Of these columns, each a bit, all that has a chance races again from rank `floor` up. The best that this warp has seen, or `known`.
  __device__ uint64_t race_columns(const Noise& noise, uint64_t floor, uint32_t again, float least_chance, uint64_t known) {
    if (!again) return known;  // for the whole block
    const int lane = int(threadIdx.x) % gpu::kWarpSize;
    const uint64_t best = best_of_lane();
    const bool own = threadIdx.x < kColumns && again >> threadIdx.x & 1;
    if (kKnows) {
      __syncthreads();  // every warp has looked
      if (own) smem_.column[lane] = 0;
      __syncthreads();
    }
    for (; again; again &= again - 1) {
      const int column = __ffs(int(again)) - 1;
      const uint64_t raced = gpu::warp_max(best_of_column(column, noise, Prefix{floor, 0}.test(), least_chance));
      known = max(known, raced);
      if (kKnows && raced && lane == 0) {
        const float score = weight_.score_of_exact(bit_cast<float>(key_of_rank(raced)));
        raise_column(column, order_rank(Weight::key_of(score), index_of_rank(raced)));
      }
    }
    if (kKnows) {
      __syncthreads();
      if (own && smem_.column[lane] == 0) smem_.column[lane] = best;  // where nothing had a chance no more is known than before
      __syncthreads();
    }
    return known;
  }
  /// Of the column that this lane has, in every warp.
  __device__ uint64_t best_of_lane() const {
    const int lane = int(threadIdx.x) % gpu::kWarpSize;
    return kKnows && lane < kColumns ? smem_.column[lane] : 0;
  }
  __device__ void raise_column(int column, uint64_t best) const { atomicMax(&smem_.column[column], static_cast<unsigned long long>(best)); }
  /// Of what this thread reads of a column and has a chance, exactly.
  __device__ uint64_t best_of_column(int column, const Noise& noise, const Prefix::Test& in_rest, float bar) {
    uint64_t best = 0;
    const int part = int(threadIdx.x) / kColumnThreads, place = column * kColumnThreads + int(threadIdx.x) % kColumnThreads;
    for_each(part * kThreads + place, kColumns * kThreads, ceil_div(chunks(), kColumns), [&](const float(&x)[kVec], int first) {
      uint32_t hits = 0;
#pragma unroll
      for (int j = 0; j < kVec; ++j) hits |= in_rest(x[j], first + j) && is_own(first + j) ? 1u << j : 0u;
      if (!hits) return;
      uint32_t bits[kVec];
      bits_of(noise, first, bits);
#pragma unroll
      for (int j = 0; j < kVec; ++j) hits &= weight_.has_chance(x[j], bits[j], bar) ? ~0u : ~(1u << j);
      for_each_hit(hits, x, bits, [&](float value, int j, uint32_t own) {
        const float score = race_score(kLogits ? weight_(value) : finite_prob(value), own);
        if (score > 0) best = max(best, gpu::race_entry(score, uint32_t(first + j)));
      });
    });
    return best;
  }

  /// The best score of this thread's column so far.
  __device__ uint32_t& best_key() const { return smem_.best[int(threadIdx.x) / kColumnThreads]; }
  /// As that is written.
  __device__ uint32_t key_of(float score) const {
    if constexpr (kWeighs) return bit_cast<uint32_t>(fminf(gpu::ptx::ex2(Weight::bar_of(score) - anchor_ - 32.0f), kLargestFloat));
    return Weight::key_of(score);
  }
  /// What a chance must reach to be looked at.
  __device__ float bar() const {
    const uint32_t key = *static_cast<volatile uint32_t*>(&best_key());
    return kWeighs ? bit_cast<float>(key) : Weight::bar_of(Weight::score_of_key(key));
  }
  __device__ void raise(Scores& scores, float score, uint32_t index) const {
    if (kLogits ? score != score : !(score > 0)) return;
    const uint64_t entry = order_rank(Weight::key_of(score), index);
    if (entry > scores.best) {
      if (scores.best) scores.second = scores.best_score();
      scores.best = entry;
      const uint32_t key = key_of(score);
      if (key > *static_cast<volatile uint32_t*>(&best_key())) atomicMax(&best_key(), key);
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
    const uint32_t key = gpu::warp_max(likeliest > (kLogits ? -kInfinity : 0.0f) ? key_of(weight_.score_of(likely, likely_bits)) : 0u);
    if (threadIdx.x % gpu::kWarpSize == 0) atomicMax(&best_key(), key);
  }

  /// The weight of a sample, relative to its largest.
  struct Sample {
    float exponent = -kLargestFloat, weight = 0;
    __device__ Sample of_warp() const {
      const float largest = gpu::warp_max(exponent);
      return {largest, gpu::warp_sum(weight * gpu::ptx::ex2(exponent - largest))};
    }
  };
  /// log2 of what the row seems to weigh, the same in all of its blocks: by a sample of a vector a thread, those of warps spread over it,
  /// its largest element for itself and the rest for as many as they are fewer than the row.
  __device__ void set_anchor() {
    constexpr int kWarps = kThreads / gpu::kWarpSize;
    const Row row(input_, p_.vocab_size, 1, 0);
    const int lane = int(threadIdx.x) % gpu::kWarpSize, warp = int(threadIdx.x) / gpu::kWarpSize;
    float x[kVec];
    row.load(row.count / kWarps * warp + lane).to_float(x);
    Sample sample;
#pragma unroll
    for (int j = 0; j < kVec; ++j) x[j] = finite_logit(x[j]) * weight_.scale, sample.exponent = fmaxf(sample.exponent, x[j]);
#pragma unroll
    for (int j = 0; j < kVec; ++j) sample.weight += gpu::ptx::ex2(fmaxf(x[j] - sample.exponent, -200.0f));  // of NaN 0
    sample = group_.all_of_block(sample);
    const float others = fmaxf(sample.weight - 1, 0.0f) * float(row.count) / kThreads;
    constexpr float kMostExact = 8388608.0f;  // an anchor is an integer
    anchor_ = floorf(fminf(fmaxf(sample.exponent + gpu::ptx::lg2(1 + others), -kMostExact), kMostExact));
  }

  /// The row's largest element is the block's so far.
  __device__ void find_most() {
    float most = -kInfinity;
    for_each(int(threadIdx.x), kThreads, chunks(), [&](const float(&x)[kVec], int) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) most = fmaxf(most, x[j]);
    });
    const uint64_t key = group_.max(order_key(most));
    if (threadIdx.x == 0) smem_.most = uint32_t(key);
    __syncthreads();
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

  /// f(element, its place in the vector, its random bits) for those whose bit is set: one copy of what few elements need.
  template <class F>
  __device__ static void for_each_hit(uint32_t hits, const float (&x)[kVec], const uint32_t (&bits)[kVec], const F& f) {
#pragma unroll 1
    for (; hits; hits &= hits - 1) {
      const int j = __ffs(int(hits)) - 1;
      float value = x[0];
      uint32_t own = bits[0];
#pragma unroll
      for (int i = 1; i < kVec; ++i) value = i == j ? x[i] : value, own = i == j ? bits[i] : own;
      f(value, j, own);
    }
  }

  /// Whether an element of a vector belongs to this block's slice.
  __device__ bool is_own(int index) const { return index >= 0 && index < slice_.length; }
  __device__ static void bits_of(const Noise& noise, int first, uint32_t (&bits)[kVec]) {
#pragma unroll
    for (int j = 0; j < kVec; j += 4) {
      uint32_t of_four[4];
      noise.bits_of(first + j, of_four);
#pragma unroll
      for (int i = 0; i < 4; ++i) bits[j + i] = of_four[i];
    }
  }

  /// All elements of this block's slice race, or what min_p keeps of the elements so far.
  __device__ Scores go_over(const Noise& noise, float limit) {
    Scores scores;
    bool at_first = true;
    const auto each = [&](const float(&x)[kVec], int first) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) scores.most = gpu::ptx::max_or_nan(scores.most, x[j]);
      float weights[kVec];
      if constexpr (kCounts) {
#pragma unroll
        for (int j = 0; j < kVec; ++j) {
          weights[j] = counted(x[j]);
          seen_ += kLogits ? weights[j] : x[j] + fabsf(x[j]);
          Counts(smem_.counts).add(weights[j]);
        }
      }
      float most = -kInfinity;
      if constexpr (kConfig.min_p) {
        float largest = x[0];
#pragma unroll
        for (int j = 1; j < kVec; ++j) largest = fmaxf(largest, x[j]);
        most = raise_most(largest, at_first);
        if (!__any_sync(0xffffffffu, is_likely(largest, most, limit))) return;
      }
      const auto counts = [&](float value, int index) { return is_own(index) && (!kConfig.min_p || is_likely(value, most, limit)); };
      uint32_t bits[kVec];
      bits_of(noise, first, bits);
      if (at_first) set_bar(x, bits, first, counts), at_first = false;
      const float least = bar();
      const auto has_chance = [&](int j) {
        if constexpr (kWeighs) return weights[j] >= least * float(bits[j]);  // as probabilities have
        return weight_.has_chance(x[j], bits[j], least);
      };
      bool any = false;
#pragma unroll
      for (int j = 0; j < kVec; ++j) any |= has_chance(j);
      if (!any) return;
      uint32_t hits = 0;
#pragma unroll
      for (int j = 0; j < kVec; ++j) hits |= has_chance(j) ? 1u << j : 0u;
      for_each_hit(hits, x, bits, [&](float value, int j, uint32_t own) {
        if (counts(value, first + j)) raise(scores, weight_.score_of(value, own), uint32_t(first + j));
      });
    };
    if constexpr (kWeighs) {
      for_each_started(int(threadIdx.x), kThreads, chunks(), each);  // by race()
    } else {
      for_each(int(threadIdx.x), kThreads, chunks(), each);
    }
    return scores;
  }

  /// Vectors of each thread in this block's slice.
  __device__ int chunks() const { return ceil_div(slice_.count, kThreads); }
  /// f(elements, index of the first, which may be negative) for the vectors start, start + step, ..., all lanes of a warp together, with
  /// -inf, or 0 for a probability, for what lies outside the row or the slice.
  template <class F>
  __device__ void for_each(int start, int step, int count, const F& f) {
    if constexpr (kHeld) {
      held_.template for_each<kVec>([](int) { return true; }, [&](const float(&x)[kVec], int index, int) { f(x, index); });
    } else {
      start = gpu::ptx::opaque(start);  // what follows from it would be computed before all passes, and spill
      Stream::start(smem_.slice, slice_, start, step);
      for_each_started(start, step, count, f);
    }
  }
  template <class F>
  __device__ void for_each_started(int start, int step, int count, const F& f) {
    Stream::for_each_started(smem_.slice, slice_, start, step, count, kPadding, [&](const typename Stream::Vector& v, int index) {
      float x[kVec];
      v.to_float(x);
      f(x, index);
    });
  }
  /// All of them, the last ones first.
  template <class F>
  __device__ void for_each_backwards(const F& f) {
    for_each((chunks() - 1) * kThreads + int(threadIdx.x), -kThreads, chunks(), f);
  }
};

}  // namespace flashinfer
