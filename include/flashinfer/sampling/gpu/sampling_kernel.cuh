// Draws a token from each row of logits or probabilities, after filters.
// Called by sampling/gpu/sampling.hpp; twin of sampling/cpu/sampling.hpp: the same prefix is kept and the same token wins, bit for bit.
//
// Bound by: memory, where the batch is large; else by the chain load, maximum, guess, list: three barriers of the cluster.
// Threads:  a group of blocks a row (RowGroup), which takes rows in turn. Every thread has the same vectors of the row in every pass.
// Memory:   a row is read once, into the shared memory of its group (RowReader), and gone over there; the next rows are on their way.
//           Below SM90, and where a row does not fit, a block goes over it in L2.
// Method:   the maximum; the prefix that the filters keep (RowFilter); the race of what is kept (sampling_params.hpp, 5).
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/grid_order.cuh>
#include <flashinfer/sampling/gpu/race.cuh>
#include <flashinfer/sampling/gpu/row_filter.cuh>
#include <flashinfer/sampling/gpu/row_hits.cuh>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer {

template <SamplingConfig kConfig>
struct SamplingKernel {
  using Params = SamplingParams;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = kConfig.blocks;

  static __device__ void run(const Params& p) {
    Smem& smem = *reinterpret_cast<Smem*>(gpu::held_dynamic_smem());
    static_assert(sizeof(Smem) <= kConfig.split().smem_bytes());
    SamplingKernel kernel(p, smem);
    Group::begin(smem.group);  // and the barriers of the reader are initialised
    gpu::wait_for_inputs(p.beside);
    const int first = int(blockIdx.x) / kCluster, step = int(gridDim.x) / kCluster, num_rows = int(p.num_rows);
    const auto skips = [&p](int row) { return kConfig.mixed && p.sampler_of(row) != RowSampler::filter; };
    if constexpr (kConfig.mixed) {  // most often nothing is left to do, in no block of the cluster
      bool any = false;
      for (int row = first + int(threadIdx.x) * step; row < num_rows; row += kThreads * step) any |= !skips(row);
      if (!__syncthreads_count(any)) return gpu::end_after_inputs(p.beside);
    }
    auto row_at = [&p](int64_t row) { return static_cast<const T*>(p.input) + p.input_row(row) * p.input_stride; };
    Reader& reader = kernel.filter_.reader;
    gpu::ptx::griddep_launch_dependents();
    for (int row = first; row < num_rows; row += step) {
      if (skips(row)) continue;
      reader.copy_ahead(step, num_rows, row_at, skips);
      reader.open(row_at(row));
      kernel.draw(row);
      reader.close();
    }
    Group::leave();
    gpu::end_after_inputs(p.beside);
  }

 private:
  using T = number_t<kConfig.input>;
  using Reader = gpu::RowReader<T, kThreads, kCluster, kConfig.chunks>;
  using Group = gpu::RowGroup<kThreads, kCluster>;
  using Filter = gpu::RowFilter<kConfig.values, Reader, Group, kThreads, kCluster>;
  using Weight = gpu::RowWeight<kConfig.values>;
  using Prefix = gpu::RowPrefix;
  static constexpr int kVec = Filter::kVec;
  static constexpr bool kLogits = kConfig.values == RowValues::logits;

  struct Smem {
    typename Reader::Smem reader;
    typename Group::Smem group;
    typename Filter::Smem filter;
    uint32_t best;  // bits of the best score of this block so far
  };

  const Params& p_;
  Smem& smem_;
  Filter filter_;
  uint64_t counted_ = 0;  // the mass that log-probabilities are shares of

  __device__ SamplingKernel(const Params& p, Smem& smem)
      : p_(p),
        smem_(smem),
        filter_(smem.filter, Reader(smem.reader, Group::rank(), p.vocab_size, int(blockIdx.x) / kCluster), Group(smem.group)) {}

  __device__ void draw(int row) {
    // Asked for before the row is waited for.
    const int64_t input_row = p_.input_row(row);
    const float temperature = kLogits ? p_.temperature.at(row, input_row) : 1.0f, min_p = p_.min_p.at(row, input_row);
    const gpu::RowFilters filters(p_.top_k.at(row, input_row), p_.top_p.at(row, input_row), p_.joint, p_.vocab_size,
                                  kLogits && is_greedy(temperature));

    Weight weight;
    const float largest = filter_.template look<true>();
    if (!weight.set(largest, temperature) || largest != largest) return write_invalid(row);

    const uint64_t floor = weight.floor(min_p);
    uint64_t total = 0;  // of the row, where it is known
    if constexpr (!kConfig.extras) {
      const Prefix prefix = filter_.keep(weight, filters, floor, total, false);
      write(row, filter_.lists_prefix() ? race_of_list(row, weight, prefix) : race(row, weight, prefix));
    } else {
      Prefix prefix;
#pragma unroll 1  // there is one copy of keep(): first what the filters keep, then the row's first elements
      for (bool top = false;; top = true) {
        const Prefix found = filter_.keep(weight, top ? gpu::RowFilters(p_.num_top, 1, false, p_.vocab_size) : filters,
                                          top ? gpu::kLowestRank : floor, total, !top);
        if (top) {
          write_top(row, weight, found, prefix);
          break;
        }
        prefix = found;
        const int32_t token = race(row, weight, prefix);
        write(row, token);
        report(row, weight, prefix, total, token);
        if (p_.num_top == 0) break;
      }
    }
  }

  __device__ void write(int row, int32_t token) const {
    if (is_writer()) {
      write_token(p_, row, token);
      if (p_.valid) p_.valid[row] = true;
    }
  }

  /// The token's log-probability, and the distribution.
  __device__ void report(int row, const Weight& weight, const Prefix& prefix, uint64_t total, int32_t token) {
    counted_ = !p_.raw_logprobs ? prefix.mass : total ? total : filter_.mass_from(weight, gpu::kLowestRank);
    if (p_.logprob && is_writer()) {
      p_.logprob[row] = log_prob(weight(value_of(row, token)), counted_);
    }
    if (p_.probs) filter_.write(p_.probs + row * p_.probs_stride, weight, prefix, 1.0f / weight_of_mass(prefix.mass));
  }

  /// The first elements of the row, of which `first` is the prefix, and their log-probabilities.
  __device__ void write_top(int row, const Weight& weight, const Prefix& first, const Prefix& kept) {
    Group::sync();  // every block has read keep()'s list
    filter_.list(first.rank, ~0ull);
    int place;
    uint64_t before, own;
    filter_.place_in_list(weight, place, before, own);
    if (group_rank() != 0 || int(threadIdx.x) >= filter_.list_length() || place >= p_.num_top) return;
    const uint64_t rank = filter_.own_rank();
    const int64_t at = int64_t(row) * p_.num_top + place;
    p_.top_tokens[at] = int32_t(index_of_rank(rank));
    p_.top_logprobs[at] =
        p_.raw_logprobs || rank >= kept.rank ? log_prob(weight(value_of_order_key<float>(key_of_rank(rank))), counted_) : -kInfinity;
  }

  /// What an element runs its race with, to 1 part in 10^4: logits by the approximate exponential. For NaN, and where the weight is 0, not
  /// above 0.
  __device__ static float about_weight(const Weight& weight, float x) {
    if constexpr (kLogits) {
      return gpu::ptx::ex2((x - weight.max) * weight.scale);
    } else {
      return x;
    }
  }
  /// 0 for an element that cannot win.
  __device__ static float score_of(const Weight& weight, float x, uint32_t bits) {
    const float w = kLogits ? weight(x) : finite_prob(x);
    return w > 0 ? race_score(w, bits) : 0.0f;
  }
  __device__ float value_of(int row, int32_t token) const {
    return gpu::load_float(static_cast<const T*>(p_.input) + p_.input_row(row) * p_.input_stride + token);
  }
  __device__ gpu::RaceNoise<false> noise_of(int row) const { return {p_.seed.at(row, row), p_.offset.at(row, row), p_.draw(row)}; }

  /// The token that wins among the elements of `prefix`.
  __device__ int32_t race(int row, const Weight& weight, const Prefix& prefix) {
    const gpu::RaceNoise<false> noise = noise_of(row);
    const Prefix::Test in_prefix = prefix.test();
    const gpu::BestScore best_score(smem_.best);
    if (threadIdx.x == 0) smem_.best = 0;
    __syncthreads();
    filter_.first_of_thread([&](const float(&x)[kVec], int first) {
      // A first bar: each warp's likely winner of its first vectors. Without it, all of them would need a logarithm.
      const gpu::RaceBits<kVec> upper = noise.template upper_of<kVec>(first);
      float chance = 0, likely = 0;
      uint32_t likely_bits = 0;
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        const float c = in_prefix(x[j], first + j) ? about_weight(weight, x[j]) * gpu::ptx::rcp(upper[j] + 0.5f) : 0.0f;
        if (c > chance) chance = c, likely = x[j], likely_bits = uint32_t(upper[j]) << 16 | 0xffffu;  // it scores this at least
      }
      const float score = chance > 0 ? score_of(weight, likely, likely_bits) : 0.0f;
      const uint32_t most = gpu::warp_max(bit_cast<uint32_t>(score));
      if (threadIdx.x % gpu::kWarpSize == 0) best_score.raise(bit_cast<float>(most));
    });
    __syncthreads();
    uint64_t best = 0;
    filter_.for_each([&](const float(&x)[kVec], int first) {
      if (!Filter::reaches(x, in_prefix.least)) return;
      const gpu::RaceBits<kVec> upper = noise.template upper_of<kVec>(first);
      const gpu::RaceBar bar(best_score.bar());
      const uint32_t hits = gpu::hits_of<kVec>([&](int j) { return bar.is_reached(about_weight(weight, x[j]), upper, j); });
      gpu::for_each_hit(hits, [&](int j, uint32_t) {
        const float value = gpu::element_of(x, j);
        if (!in_prefix(value, first + j)) return;
        const float score = score_of(weight, value, noise.bits_of(uint32_t(first + j)));
        if (score > 0) best = max(best, gpu::race_entry(score, uint32_t(first + j)));
        best_score.raise(score);
      });
    });
    return int32_t(index_of_rank(filter_.group.max(best)));
  }

  /// The same where the filter has listed the whole prefix: an element a thread, and every block knows the winner.
  __device__ int32_t race_of_list(int row, const Weight& weight, const Prefix& prefix) {
    uint64_t best = 0;
    if (int(threadIdx.x) < filter_.list_length() && filter_.own_rank() >= prefix.rank) {
      const uint32_t token = index_of_rank(filter_.own_rank());
      const float score = score_of(weight, value_of_order_key<float>(key_of_rank(filter_.own_rank())), noise_of(row).bits_of(token));
      if (score > 0) best = gpu::race_entry(score, token);
    }
    return int32_t(index_of_rank(filter_.group.max_of_block(best)));
  }

  static __device__ int group_rank() { return Group::rank(); }
  static __device__ bool is_writer() { return group_rank() == 0 && threadIdx.x == 0; }

  __device__ void write_invalid(int row) {
    if (is_writer()) {
      write_token(p_, row, 0);
      if (p_.valid) p_.valid[row] = false;
      if (p_.logprob) p_.logprob[row] = -kInfinity;
    }
    if constexpr (kConfig.extras) {
      if (group_rank() == 0 && int(threadIdx.x) < p_.num_top) {
        p_.top_tokens[int64_t(row) * p_.num_top + threadIdx.x] = 0;
        p_.top_logprobs[int64_t(row) * p_.num_top + threadIdx.x] = -kInfinity;
      }
      if (p_.probs) filter_.fill(p_.probs + row * p_.probs_stride, 0.0f);
    }
  }
};

}  // namespace flashinfer
