// Draws a token from each row of logits or probabilities, of all or of what top_p and min_p keep, reading the row as it comes.
// Called by sampling/gpu/sampling.hpp; twin of sampling/cpu/sampling.hpp: the same token wins, bit for bit.
//
// Bound by: memory, one read of the row; for few rows by the chain load, race, one barrier of the cluster. Some 100 instructions for eight
//           elements, a fourth of them Philox, hide behind the loads (H200, 512 rows: 62 us, 4.3 TB/s); with min_p most vectors need none
//           of them. Counting what elements weigh, for top_p, takes 46 more; with a sample before the row, a search after it, and as a
//           launch waits for the row that is refused most often, 512 take 83 us (of logits 98).
// Threads:  a cluster of blocks a row, each with a slice of it (race_slice.cuh).
// Memory:   where rows are few and min_p filters, shared memory holds the slice. (Not where rows are many: a cluster of 8 takes 15 us, half
//           of them without a load on its way, and 512 rows with top_p 216 us instead of 170.)
// Method:   probabilities race as they are, and their scores are exact. What a logit weighs depends on the row's maximum, which nobody
//           knows before the end, so logits race by the logarithms of their scores, approximately. Where a second score is so close to the
//           best that the approximation cannot tell (one row in ten thousand), an exact race follows.
//           min_p is relative to the maximum too: what it keeps of the maximum so far races, which is more than it keeps in the end. A
//           winner that it does not keep in the end was early in the row; then those that it keeps race again. Of a slice that is held the
//           maximum is found first.
//           Where rows are many, a sample tells whether what top_p may keep is few, as a language model's mostly is: then that is listed
//           and races alone (race_list.cuh). Else what the sample says is not kept does not win at first, which would be refused (128 and
//           512 rows 33 and 91 us without that); what it is not sure of does not either, and is noted where it is better: if the best of
//           all that is kept is such, it has been noted, and no row races again (128 rows 26.8 us, 29.8 without that). Elsewhere nobody
//           looks for the boundary of top_p: the token that wins without it also wins with it if the mass before it is less than top_p
//           wants (race_row.cuh); else neither it nor anything after it is kept, and those before it race again. A row takes 1 + ln(1 /
//           top_p) races in the mean, whatever its shape; where rows are many, counts tell all that is not kept, and no row races more
//           often than twice; in larger clusters, whose rounds cost more, one message says who wins, whether it is kept, and who is next.
//           Columns, parts of a block, race for themselves. If the best of a column is kept, it is the best of all that it has and is kept;
//           so only those race again whose best is not kept and better than the best that is: mostly one, a warp's share. Where a thread
//           has a few vectors only, there is one column a block: every column has its first elements to look at.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/sampling/gpu/race.cuh>
#include <flashinfer/sampling/gpu/race_row.cuh>

namespace flashinfer {

template <RaceConfig kConfig>
struct RaceKernel {
  using Params = SamplingParams;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = kConfig.blocks;

  static __device__ void run(const Params& p) {
    static_assert(sizeof(Smem) <= kConfig.smem_bytes());
    Smem& smem = *reinterpret_cast<Smem*>(gpu::held_dynamic_smem());
    Row::clear(smem.row);
    if (kCluster > 1) Group::begin(smem.row.group);
    const int row = int(blockIdx.x) / kCluster;
    // Addresses first, unless they are still to be read: beside the wait ptxas puts them behind it, before the first copy.
    if (p.indices) gpu::ptx::griddep_wait();
    RaceKernel kernel(p, smem, row);
    if (!p.indices) gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    if (p.mixed && p.sampler_of(row) != RowSampler::race) return;  // every block of the cluster
    kernel.draw();
  }

 private:
  using Slice = gpu::RaceSlice<kConfig>;
  using Row = gpu::RaceRow<kConfig>;
  using Group = typename Row::Group;
  using Weight = gpu::RaceWeight<kConfig.values>;
  using Prefix = gpu::RowPrefix;
  using Noise = gpu::RaceNoise<!kConfig.min_p>;  // with min_p few vectors race
  using FewNoise = gpu::RaceNoise<false>;
  static constexpr bool kLogits = kConfig.values == RowValues::logits;
  static constexpr bool kCounts = Row::kCounts, kEdges = Row::kEdges, kAsks = Row::kAsks, kLists = Row::kLists;
  static constexpr bool kWeighs = kCounts && kLogits;           // all logits are weighed to be counted, and race by these weights
  static constexpr float kNever = kLogits ? -kInfinity : 0.0f;  // elements that are not greater are never drawn
  static constexpr int kVec = Slice::kVec, kColumns = Slice::kColumns;
  static constexpr int kAgain = kAsks ? kVec : 4;        // elements that race again together; else registers are not enough for more
  static constexpr bool kKnows = kColumns > 1 || kAsks;  // columns know their best
  static constexpr uint32_t kBitsOfInfinity = bit_cast<uint32_t>(kInfinity);

  /// Elements of which a sample does not say whether they are kept, those that are not greater than `most`, and that were as good as the
  /// best of their column that surely is, or better: if one of them wins in the end, it is among them, and nobody has to race again.
  struct Unsure {
    static constexpr int kRoom = 192;  // normal logits of deviation 3 have 7 in the mean, one row in 300 more than 50
    float most;
    uint32_t count;
    uint64_t entries[kRoom];  // as Scores::best
  };
  struct Nothing {};
  struct Smem {
    typename Row::Smem row;
    unsigned long long column[kColumns];  // its best, as Scores::best, if it knows it
    uint32_t best[kColumns];              // key_of its best score so far, or of the weight to have a chance beside it
    uint32_t most;                        // min_p: order_key of the block's largest element so far
    float below;                          // what a sample says is not kept: elements that are not greater do not race at first
    conditional_t<kLists, Unsure, Nothing> unsure;
  };
  /// What a thread has seen.
  struct Scores {
    float most = -kInfinity;    // the largest element, NaN if there is one
    uint32_t bits = 0;          // of probabilities, until all have been seen: the greatest bits, in the order of what is not negative
    float second = -kInfinity;  // the best score after the best
    uint64_t best = 0;          // order_rank of the best score's key and the element's index
    __device__ float best_score() const { return Weight::score_of_key(key_of_rank(best)); }
  };

  const Params& p_;
  Smem& smem_;
  const int index_;     // of the row
  bool begun_ = false;  // its first look
  Row row_;

  __device__ RaceKernel(const Params& p, Smem& smem, int index)
      : p_(p), smem_(smem), index_(index), row_(smem.row, address_of(p, index), p.vocab_size) {}
  __device__ static const void* address_of(const Params& p, int row) {
    return static_cast<const number_t<kConfig.input>*>(p.input) + p.input_row(row) * p.input_stride;
  }
  __device__ float temperature() const { return p_.temperature.at(index_, p_.input_row(index_)); }

  __device__ void draw() {
    if (!kLists) row_.slice.begin();  // while seeds are read
    if (kLogits) row_.weight.scale = logit_scale(temperature());
    const Noise noise(p_.seed.at(index_, index_), p_.offset.at(index_, index_), p_.draw(index_));
    const float top_p = kConfig.top_p ? p_.top_p.at(index_, p_.input_row(index_)) : 1.0f;
    uint64_t winner = 0;
    if (!race_listed(noise.sparse(), top_p, winner)) winner = kept_winner(noise, top_p);
    if (Group::rank() != 0 || threadIdx.x != 0) return;
    write_token(p_, index_, winner ? int32_t(index_of_rank(winner)) : 0);
    if (p_.valid) p_.valid[index_] = winner != 0;
  }
  /// The winner among what top_p keeps, if that is few, or 0; false: the whole row must race, of which the first look has begun if
  /// `begun_`.
  __device__ bool race_listed(const FewNoise& noise, float top_p, uint64_t& winner) {
    if constexpr (kLists) {
      if (threadIdx.x == 0) smem_.below = smem_.unsure.most = 0, smem_.unsure.count = 0;
      if (top_p >= 1) return false;
      typename Row::List list = row_.list();
      begun_ = true;
      const bool few = list.begin(fmaxf(top_p, 0.0f));
      if (kEdges && threadIdx.x == 0 && !few) smem_.below = list.low(), smem_.unsure.most = list.high();
      if (!few) return false;
      begun_ = false;
      if (!list.list(top_p, row_.roundings())) return false;
      if (!row_.set_weight(value_of_order_key<float>(list.most()), 1)) return true;
      uint64_t rank = gpu::kLowestRank - 1;
      while ((winner = list.race(noise, rank + 1))) {
        rank = rank_of(winner);
        const auto [before, total] = list.share_before(rank);
        if (row_.keeps(rank, top_p, before, total)) break;
        rank = max(rank, row_.refused());
      }
      return true;
    }
    return false;
  }
  /// The winner of the row among what top_p and min_p keep.
  __device__ uint64_t kept_winner(const Noise& noise, float top_p) {
    Rest rest;
    uint64_t winner = race(noise, rest);
    top_p = gpu::ptx::opaque(top_p);  // or what follows from it is known beforehand, and spills
    const FewNoise few = noise.sparse();
    if constexpr (kEdges) {
      if (rest.valid && !(top_p >= 1)) row_.find_edges(top_p);
      const auto is_refused = [this](float x) { return order_rank(order_key(x), 0) <= row_.refused(); };
      bool right = !(below() > kNever) || is_refused(below());
      if constexpr (kLists) {
        // What is not above a value that is refused itself does not matter; if that is kept, what has been noted does.
        if (rest.valid && right && surely_kept() > below() && !is_refused(surely_kept())) {
          right = winner && row_.surely_keeps(surely_kept()) && best_of_unsure(winner, top_p);
          if (right) return winner;
        }
      }
      // Where the sample was wrong, all race that may be kept, beside the best that has raced: if anything that has not is kept, all
      // that has is, for it lies above. (Without its bar each of them needs a division: H200, 128 rows some of which are such 120 us, with
      // it 49.)
      if (rest.valid && !right) rest.races = rest.all = true, rest.floor = max(rest.floor, row_.refused() + 1);
    }
    for (;;) {
      if (rest.races) winner = race_again(few, rest);  // one copy
      if (!kConfig.top_p || !winner || top_p >= 1) return winner;
      if constexpr (kAsks) return judge(few, winner, top_p);
      if (row_.keeps(rank_of(winner), top_p)) return winner;
      row_.slice.prefetch_column_of(index_of_rank(winner));  // it races again in any case, and the others wait for it
      rest = {.valid = true, .races = true, .floor = max(rank_of(winner), row_.refused()) + 1};
    }
  }
  /// Puts what is better and kept, of what the sample is not sure of, in the place of the best that surely is. False: it had no room for
  /// all of that. The same in all blocks.
  __device__ bool best_of_unsure(uint64_t& winner, float top_p) {
    constexpr uint64_t kLost = ~uint64_t(0);
    for (;;) {
      const int count = int(smem_.unsure.count);
      uint64_t best = count > Unsure::kRoom ? kLost : 0;
      if (int(threadIdx.x) < min(count, Unsure::kRoom)) {
        const uint64_t entry = smem_.unsure.entries[threadIdx.x];
        if (entry > winner && rank_of(entry) > row_.refused()) best = max(best, entry);
      }
      best = row_.group.max(best);
      if (best == kLost) return false;
      if (!best) return true;
      if (!row_.keeps(rank_of(best), top_p)) continue;  // nor what comes after it
      winner = best;
      return true;
    }
  }
  /// What must race again, if the row is valid: the elements from a rank up that have a chance beside another, or beside none; `all` of
  /// them, or those of columns that are known to have better ones.
  struct Rest {
    bool valid = false, races = false, all = false;
    uint64_t floor = gpu::kLowestRank, other = 0;
  };
  /// Of the element that has this score.
  __device__ uint64_t rank_of(uint64_t entry) const { return row_.slice.rank_of(index_of_rank(entry)); }

  /// One message a round for clusters, whose rounds cost more: the mass before who seems to win, who really does after columns have raced
  /// again, and who is next if it is refused.
  struct Judgement {
    uint64_t too_much = 0, enough = 0, best = 0, next = 0;
    __device__ Judgement of_warp() const {
      return {gpu::warp_sum(too_much), gpu::warp_sum(enough), gpu::warp_max(best), gpu::warp_max(next)};
    }
  };
  __device__ uint64_t judge(const FewNoise& noise, uint64_t winner, float top_p) {
    uint64_t floor = gpu::kLowestRank;
    while (winner) {
      const uint64_t best = best_of_lane(), rank = best ? rank_of(best) : 0, rank_of_winner = rank_of(winner);
      const auto [too_much, enough] = row_.by_counts(rank_of_winner, top_p);
      const Judgement judgement =
          row_.group.all(Judgement{too_much, enough, kLogits || rank < floor ? 0 : best, rank > rank_of_winner ? best : 0});
      if (judgement.best > winner) {
        winner = judgement.best;
        continue;
      }
      const gpu::Verdict verdict = Row::of_sums(judgement.too_much, judgement.enough);
      if (verdict == gpu::Verdict::kept) return winner;
      if (verdict == gpu::Verdict::unknown && row_.keeps_by_row(rank_of_winner, top_p)) return winner;
      row_.slice.prefetch_column_of(index_of_rank(winner));
      floor = rank_of_winner + 1, winner = judgement.next;
      if constexpr (kLogits) {  // columns know them approximately
        winner = race_known(noise, floor, winner);
      } else {
        const uint64_t raced = race_columns(noise, floor, __ballot_sync(0xffffffffu, rank < floor && best > winner), winner, 0);
        if (!winner) winner = row_.group.max(raced);
      }
    }
    return 0;
  }

  /// What the threads have seen together.
  struct Outcome {
    uint64_t best = 0;
    uint32_t second = 0, most = 0;  // keys
    __device__ Outcome of_warp() const {
      const uint64_t of_all = gpu::warp_max(best);
      return {of_all, kLogits ? gpu::warp_max(best == of_all ? second : key_of_rank(best)) : 0, gpu::warp_max(most)};
    }
  };

  /// Who wins the row, or what min_p keeps of it, in every thread, unless the rest races again: its index is that of the rank. 0 for a row
  /// that is not valid.
  __device__ uint64_t race(const Noise& noise, Rest& rest) {
    const float min_p = kConfig.min_p ? p_.min_p.at(index_, p_.input_row(index_)) : 0.0f;
    if (threadIdx.x < kColumns) smem_.best[threadIdx.x] = key_of(kNever), smem_.column[threadIdx.x] = 0;
    if (threadIdx.x == 0) smem_.most = order_key(-kInfinity);
    __syncthreads();
    if constexpr (Slice::kHeld && kConfig.min_p) find_most();
    if (kLists && !begun_) row_.slice.begin();
    if constexpr (kWeighs) row_.set_anchor();
    const Scores scores = go_over(noise, kLogits ? least_exponent(min_p) : min_p);
    row_.tell();
    if constexpr (kKnows) {
      const uint64_t best = gpu::warp_max(scores.best);
      if (threadIdx.x % gpu::kWarpSize == 0) raise_column(int(threadIdx.x) / Slice::kColumnThreads, best);
    }
    // The key of a NaN stands above all others.
    const Outcome outcome =
        row_.group.all(Outcome{scores.best, Weight::key_of(scores.second), scores.most != scores.most ? ~0u : order_key(scores.most)});
    const uint64_t best = outcome.best;
    rest.valid = outcome.most != ~0u && row_.set_weight(value_of_order_key<float>(outcome.most), temperature());
    if (!rest.valid) return 0;
    if constexpr (kConfig.min_p) {
      rest.floor = row_.weight.floor(min_p);
      if (!p_.joint) row_.set_least_in_total(value_of_order_key<float>(key_of_rank(rest.floor)));
      if (best && rank_of(best) < rest.floor) rest.races = true;
    }
    if (kLogits && !rest.races && !(Weight::score_of_key(outcome.second) < bar_beside(best))) rest.races = true, rest.other = best;
    return best;
  }

  /// The winner among these elements, by exact scores; of those that have a chance beside the other, or beside the best that columns know.
  __device__ uint64_t race_again(const FewNoise& noise, const Rest& rest) {
    if constexpr (kKnows) {
      const uint64_t best = best_of_lane();
      return race_known(noise, rest.floor, row_.group.max(best && rank_of(best) >= rest.floor ? best : 0), rest.all);
    } else {
      return row_.group.max(race_columns(noise, rest.floor, 1, rest.other, 0));
    }
  }
  /// The same, where the best that columns know of these elements is this, or 0.
  __device__ uint64_t race_known(const FewNoise& noise, uint64_t floor, uint64_t known, bool all = false) {
    const uint64_t best = best_of_lane();
    const auto columns = [&](bool again) { return all ? (1u << kColumns) - 1 : __ballot_sync(0xffffffffu, again); };
    if constexpr (kLogits) {  // known approximately
      const uint32_t again = columns(best && !(Weight::score_of_key(key_of_rank(best)) < bar_beside(known)));
      return row_.group.max(race_columns(noise, floor, again, known, 0));
    } else {
      return row_.group.max(race_columns(noise, floor, columns(best > known), known, known));
    }
  }
  /// The bar of what may win beside an element with this score, or beside none.
  __device__ static float bar_beside(uint64_t other) { return other ? Weight::bar_of(Weight::score_of_key(key_of_rank(other))) : kNever; }
  /// Of these columns, each a bit, all that has a chance beside `other` races again from rank `floor` up. The best that this warp has seen,
  /// or `known`. Columns know it if it is better than `other`: a chance is not yet a score, and what had none may be better than what had
  /// one.
  __device__ uint64_t race_columns(const FewNoise& noise, uint64_t floor, uint32_t again, uint64_t other, uint64_t known) {
    if (!again) return known;  // for the whole block
    const int lane = int(threadIdx.x) % gpu::kWarpSize;
    const float bar = bar_beside(other);
    const uint64_t best = best_of_lane();
    const bool own = threadIdx.x < kColumns && again >> threadIdx.x & 1;
    if (kKnows) {
      __syncthreads();  // every warp has looked
      if (own) smem_.column[lane] = 0;
      __syncthreads();
    }
    for (; again; again &= again - 1) {
      const int column = __ffs(int(again)) - 1;
      const uint64_t raced = gpu::warp_max(best_of_column(column, noise, Prefix{floor, 0}.test(), bar));
      known = max(known, raced);
      if (kKnows && raced && lane == 0) {
        const float score = row_.weight.score_of_exact(bit_cast<float>(key_of_rank(raced)));
        const uint64_t entry = order_rank(Weight::key_of(score), index_of_rank(raced));
        if (entry >= other) raise_column(column, entry);
      }
    }
    if (kKnows) {
      __syncthreads();
      if (own && smem_.column[lane] == 0) smem_.column[lane] = best;  // where nothing was better no more is known than before
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
  __device__ uint64_t best_of_column(int column, const FewNoise& noise, const Prefix::Test& in_rest, float bar) {
    const gpu::RaceBar race_bar(bar);
    uint64_t best = 0;
    row_.slice.template for_each_of_column<kAgain>(column, [&](const float(&x)[kAgain], int first) {
      uint32_t hits = 0;
#pragma unroll
      for (int j = 0; j < kAgain; ++j) hits |= in_rest(x[j], Slice::template index_of<kAgain>(first, j)) ? 1u << j : 0u;
      if (!hits) return;
      auto bits = row_.slice.template bits_of<kAgain>(noise, first);
#pragma unroll
      for (int j = 0; j < kAgain; ++j) hits &= row_.weight.has_chance(x[j], bits.upper, j, race_bar) ? ~0u : ~(1u << j);
      for_each_hit(noise, hits, x, bits, first, [&](float value, uint32_t index, uint32_t own) {
        const float score = race_score(kLogits ? row_.weight(value) : finite_prob(value), own);
        if (score > 0) best = max(best, gpu::race_entry(score, index));
      });
    });
    return best;
  }

  /// Elements that are not greater do not race.
  __device__ float below() const {
    if constexpr (kLists) return *static_cast<volatile float*>(&smem_.below);
    return kNever;
  }
  /// From which on, but for itself, elements are surely kept, if a sample says so; else what below() is.
  __device__ float surely_kept() const {
    if constexpr (kLists) return *static_cast<volatile float*>(&smem_.unsure.most);
    return below();
  }
  /// The best score of this thread's column so far.
  __device__ uint32_t& best_key() const { return smem_.best[int(threadIdx.x) / Slice::kColumnThreads]; }
  /// As that is written.
  __device__ uint32_t key_of(float score) const {
    if constexpr (kWeighs) return bit_cast<uint32_t>(fminf(gpu::ptx::ex2(Weight::bar_of(score) - row_.anchor() - 16.0f), kLargestFloat));
    return Weight::key_of(score);
  }
  /// What a chance must reach to be looked at.
  __device__ float bar() const {
    const uint32_t key = *static_cast<volatile uint32_t*>(&best_key());
    return kWeighs ? bit_cast<float>(key) : Weight::bar_of(Weight::score_of_key(key));
  }
  __device__ bool is_unsure(float x) const { return kLists && !(x > surely_kept()); }
  /// Notes an element of which the sample is not sure. Of one as good as the best the index decides.
  __device__ void note(float score, uint32_t index) const {
    if constexpr (kLists) {
      if (Weight::key_of(score) < *static_cast<volatile uint32_t*>(&best_key())) return;
      const uint32_t at = atomicAdd(&smem_.unsure.count, 1u);
      if (at >= uint32_t(Unsure::kRoom)) return;
      smem_.unsure.entries[at] = order_rank(Weight::key_of(score), index);
    }
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
  /// A first bar: what each warp's likely winner of its first four scores at least. Without it, all of them would need a logarithm.
  template <class Counts>
  __device__ void set_bar(const float (&x)[kVec], const gpu::RaceBits<kVec>& upper, const Counts& counts) const {
    float least = -kInfinity;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (counts(x[j])) least = fmaxf(least, row_.weight.least_score(x[j], upper[j]));
    const uint32_t key = gpu::warp_max(least > kNever ? key_of(least) : 0u);
    if (threadIdx.x % gpu::kWarpSize == 0) atomicMax(&best_key(), key);
  }

  /// The row's largest element is the block's so far.
  __device__ void find_most() {
    float most = -kInfinity;
    row_.slice.for_each([&](const float(&x)[kVec], int) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) most = fmaxf(most, x[j]);
    });
    const uint64_t key = row_.group.max(order_key(most));
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
    return kLogits ? logit_exponent(x, finite_logit(most), row_.weight.scale) >= limit : x >= least_prob(limit, finite_prob(most));
  }

  /// f(element, its index, its random bits) for those whose bit is set: one copy of what few elements need. (By row_hits.cuh, instructions
  /// in another order, top_p of 512 rows of logits takes 3 % longer on an H100.)
  template <class AnyNoise, int kCount, class F>
  __device__ void for_each_hit(const AnyNoise& noise, uint32_t hits, const float (&x)[kCount], typename Slice::template Bits<kCount>& bits,
                               int first, const F& f) const {
    if (!hits) return;
    row_.slice.need_lower(noise, first, bits);
#pragma unroll 1
    for (; hits; hits &= hits - 1) {
      const int j = __ffs(int(hits)) - 1;
      f(gpu::element_of(x, j), uint32_t(Slice::template index_of<kCount>(first, j)), gpu::bits_at(bits.upper, bits.lower, j));
    }
  }

  /// All elements of this block's slice race, or what min_p keeps of the elements so far.
  __device__ Scores go_over(const Noise& noise, float limit) {
    Scores scores;
    bool at_first = true;
    row_.slice.for_each_begun([&](const float(&x)[kVec], int first) {
#pragma unroll
      for (int j = 0; j < kVec; j += 2) {
        if constexpr (kLogits)
          scores.most = gpu::ptx::max_or_nan(gpu::ptx::max_or_nan(scores.most, x[j]), x[j + 1]);
        else  // an instruction for two from SM90 on
          scores.bits = max(scores.bits, max(bit_cast<uint32_t>(x[j]), bit_cast<uint32_t>(x[j + 1])));
      }
      float weights[kVec];
      if constexpr (kCounts) {
#pragma unroll
        for (int j = 0; j < kVec; ++j) weights[j] = row_.count(x[j]);
      }
      float most = -kInfinity;
      if constexpr (kConfig.min_p) {
        float largest = x[0];
#pragma unroll
        for (int j = 1; j < kVec; ++j) largest = fmaxf(largest, x[j]);
        most = raise_most(largest, at_first);
        if (!__any_sync(0xffffffffu, is_likely(largest, most, limit))) return;
      }
      const auto counts = [&](float value) { return value > below() && (!kConfig.min_p || is_likely(value, most, limit)); };
      auto bits = row_.slice.template bits_of<kVec>(noise, first);
      if (at_first) set_bar(x, bits.upper, [&](float value) { return counts(value) && !is_unsure(value); }), at_first = false;
      const gpu::RaceBar least(bar());
      const auto has_chance = [&](int j) {
        if constexpr (kWeighs) return least.is_reached(weights[j], bits.upper, j);  // as probabilities have
        return row_.weight.has_chance(x[j], bits.upper, j, least);
      };
      bool any = false;
#pragma unroll
      for (int j = 0; j < kVec; ++j) any |= has_chance(j);
      if (!any) return;
      uint32_t hits = 0;  // none of what is never drawn: where a row is masked but for a few elements, columns have no bar
      const float never = below();
#pragma unroll
      for (int j = 0; j < kVec; ++j) hits |= has_chance(j) && x[j] > never ? 1u << j : 0u;
      for_each_hit(noise, hits, x, bits, first, [&](float value, uint32_t index, uint32_t own) {
        if (!counts(value)) return;
        const float score = row_.weight.score_of(value, own);
        if (is_unsure(value)) return note(score, index);
        raise(scores, score, index);
      });
    });
    if constexpr (!kLogits) {
      scores.most = bit_cast<float>(scores.bits);
      if (__any_sync(0xffffffffu, scores.bits > kBitsOfInfinity)) see_again(scores);
    }
    return scores;
  }
  /// For a warp that has met a NaN or a negative probability, whose bits are above all others. Element by element, in few instructions: it
  /// is seldom.
  __device__ void see_again(Scores& scores) {
    scores.most = -kInfinity;
    row_.forget();
    row_.slice.for_each_slowly([&](float x) {
      scores.most = gpu::ptx::max_or_nan(scores.most, x);
      row_.see(fmaxf(x, 0.0f));
    });
  }
};

}  // namespace flashinfer
