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
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/sampling/gpu/row_filter.cuh>

namespace flashinfer {

template <SamplingConfig kConfig>
struct SamplingKernel {
  using Params = SamplingParams;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = kConfig.blocks;

  static __device__ void run(const Params& p) {
    Smem& smem = *reinterpret_cast<Smem*>(gpu::dynamic_smem());
    static_assert(sizeof(Smem) <= kConfig.split().smem_bytes());
    SamplingKernel kernel(p, smem);
    __syncthreads();  // the barriers of the reader are initialised
    gpu::ptx::griddep_wait();
    const int step = int(gridDim.x) / kCluster, num_rows = int(p.num_rows);
    auto row_at = [&p](int64_t row) { return static_cast<const T*>(p.input) + p.input_row(row) * p.input_stride; };
    Reader& reader = kernel.filter_.reader;
    gpu::ptx::griddep_launch_dependents();
    for (int row = int(blockIdx.x) / kCluster; row < num_rows; row += step) {
      reader.copy_ahead(step, num_rows, row_at);
      reader.open(row_at(row));
      kernel.draw(row);
      reader.close();
    }
    if (kCluster > 1) Group::sync();  // no block leaves while another may read its shared memory
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
    float largest;
    bool has_nan;
    filter_.look(largest, has_nan);
    if (!weight.set(largest, temperature) || has_nan) return write_invalid(row);

    const uint64_t floor = filter_.floor_of(weight, min_p);
    uint64_t total = 0;  // of the row, where it is known
    if constexpr (!kConfig.extras) {
      const Prefix prefix = filter_.keep(weight, filters, floor, total, false);
      write(row, int32_t(index_of_rank(race(row, weight, prefix))));
    } else {
      Prefix prefix;
#pragma unroll 1  // there is one copy of keep(): first what the filters keep, then the row's first elements
      for (bool top = false;; top = true) {
        const Prefix found = filter_.keep(weight, top ? gpu::RowFilters(p_.num_top, 1, false, p_.vocab_size) : filters,
                                          top ? Filter::kLowestRank : floor, total, !top);
        if (top) {
          write_top(row, weight, found, prefix);
          break;
        }
        prefix = found;
        const int32_t token = int32_t(index_of_rank(race(row, weight, prefix)));
        write(row, token);
        report(row, weight, prefix, total, token);
        if (p_.num_top == 0) break;
      }
    }
  }

  __device__ void write(int row, int32_t token) const {
    if (is_writer()) {
      write_token(row, token);
      if (p_.valid) p_.valid[row] = true;
    }
  }

  /// The token's log-probability, and the distribution.
  __device__ void report(int row, const Weight& weight, const Prefix& prefix, uint64_t total, int32_t token) {
    counted_ = !p_.raw_logprobs ? prefix.mass : total ? total : filter_.mass_from(weight, Filter::kLowestRank);
    if (p_.logprob && is_writer()) {
      const T* input = static_cast<const T*>(p_.input) + p_.input_row(row) * p_.input_stride;
      p_.logprob[row] = log_prob(weight(gpu::load_float(input + token)), counted_);
    }
    if (p_.probs) filter_.write(p_.probs + row * p_.probs_stride, weight, prefix, 1.0f / weight_of_mass(prefix.mass), 0.0f);
  }

  /// The first elements of the row, of which `first` is the prefix, and their log-probabilities.
  __device__ void write_top(int row, const Weight& weight, const Prefix& first, const Prefix& kept) {
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

  /// The score of an element and, above it in order among equal ones, its index: the greatest wins.
  __device__ static uint64_t entry(float score, uint32_t index) { return order_rank(bit_cast<uint32_t>(score), index); }

  /// What an element runs its race with, to 1 part in 10^4: logits by the approximate exponential. For NaN, and where the weight is 0, not
  /// above 0.
  __device__ static float about_weight(const Weight& weight, float x) {
    if constexpr (kLogits) {
      return gpu::ptx::ex2((x - weight.max) * weight.scale);
    } else {
      return x;
    }
  }
  __device__ static uint32_t bits_of(const Philox& noise, uint32_t i) {
    return i == 0 ? noise.word[0] : i == 1 ? noise.word[1] : i == 2 ? noise.word[2] : noise.word[3];
  }

  __device__ uint64_t race(int row, const Weight& weight, const Prefix& prefix) {
    const uint64_t seed = p_.seed.at(row, row), offset = p_.offset.at(row, row);
    const uint32_t draw = p_.draw(row);
    auto race_weight = [&](float x) { return kLogits ? weight(x) : finite_prob(x); };
    const Prefix::Test in_prefix = prefix.test();
    uint64_t best = 0;
    if (threadIdx.x == 0) smem_.best = 0;
    __syncthreads();
    filter_.for_each([&](const float(&x)[kVec], int first) {
      bool any = false;
#pragma unroll
      for (int j = 0; j < kVec; ++j) any |= x[j] >= in_prefix.least;
      if (!any) return;
      // A score is at most weight / u, u = bits / 2^32, but for roundings: most elements need no logarithm, and no exact weight.
      const float bar = bit_cast<float>(*static_cast<volatile uint32_t*>(&smem_.best)) * (0.9998f / 4294967296.0f);
      const bool aligned = first % 4 == 0;
      uint32_t kept_bits[kVec];  // 16-bit rows have no registers for them
      if (aligned) {
        any = false;
        const Philox noise = philox_of_tokens(seed, offset, draw, uint32_t(first), 0, gpu::ptx::MulWide{});
#pragma unroll
        for (int j = 0; j < kVec; ++j) {
          kept_bits[j] = noise.word[j];
          any |= about_weight(weight, x[j]) > bar * float(noise.word[j]);
        }
        if (!any) return;
      }
#pragma unroll 1
      for (int j = 0; j < kVec; ++j) {
        const float value = Filter::at(x, j);
        const int index = first + j;
        if (!in_prefix(value, index)) continue;
        const uint32_t bits =
            sizeof(T) == 4 && aligned
                ? Filter::at(kept_bits, j)
                : bits_of(philox_of_tokens(seed, offset, draw, uint32_t(index), 0, gpu::ptx::MulWide{}), uint32_t(index) % 4);
        const float w = race_weight(value);
        if (!(w > 0) || (aligned && !(about_weight(weight, value) > bar * float(bits)))) continue;
        const float score = race_score(w, bits);
        best = max(best, entry(score, uint32_t(index)));
        if (bit_cast<uint32_t>(score) > *static_cast<volatile uint32_t*>(&smem_.best)) atomicMax(&smem_.best, bit_cast<uint32_t>(score));
      }
    });
    return filter_.group.max(best).first;
  }

  __device__ void write_token(int row, int32_t token) const {
    if (p_.tokens_64)
      static_cast<int64_t*>(p_.tokens)[row] = token;
    else
      static_cast<int32_t*>(p_.tokens)[row] = token;
  }
  static __device__ int group_rank() { return Group::rank(); }
  static __device__ bool is_writer() { return group_rank() == 0 && threadIdx.x == 0; }

  __device__ void write_invalid(int row) {
    if (is_writer()) {
      write_token(row, 0);
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
