// Top-k selection: the k first elements of each row in the order of core/row_order.hpp, in the order of their indices or sorted.
// Called by topk/gpu/topk.hpp; twin of topk/cpu/topk.hpp.
//
// Bound by: memory; a row is read once. Few rows: by the chain load, bound, collect, merge, sort.
// Threads:  a cluster of blocks a row (one block below SM90); warps take turns at chunks of 32 16-byte vectors, chunks go round the blocks.
// Method:   a bound that a few more than k elements reach, from a sample of the row (its largest element of each thread, spread over
//           the row); one pass collects what reaches it; the first block sorts the candidates of all and cuts at k. That is exact:
//           where the bound was too high or too low for that, which the counts tell, the row is selected by radix instead, digit by
//           digit. Ranks contain the index, so rows of equal elements are no special case.
// Memory:   shared: the candidates (dynamic), one histogram, and a ring of what is on its way (RowStream) where registers do not hold the
// row. Sync:     barriers of the block; with a cluster two of that: counts and bounds are known, candidates have arrived.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/ptx/prefetch.cuh>
#include <flashinfer/gpu/rank_select.cuh>
#include <flashinfer/gpu/row_group.cuh>
#include <flashinfer/gpu/row_stream.cuh>
#include <flashinfer/topk/topk_params.hpp>

namespace flashinfer {

template <TopkConfig kConfig>
struct TopkKernel {
  using Params = TopkParams;
  using T = number_t<kConfig.input>;
  static constexpr int kThreads = kConfig.threads;
  static constexpr int kMinBlocks = kConfig.vecs > 4 ? 1 : 1024 / kThreads;
  static constexpr int kVecs = kConfig.vecs, kCluster = kConfig.cluster;
  static constexpr int kVec = gpu::RowVectors<T>::kVec;
  static constexpr int kWarps = kThreads / gpu::kWarpSize;
  static constexpr int kSamples = kWarps * kVecs;  // chunks that registers hold
  static_assert(kThreads * kVecs * kVec < 1 << 16);
  using Row = gpu::RowVectors<T>;
  using Vec = gpu::Vec<T, kVec>;
  using Group = gpu::RowGroup<kThreads, kCluster>;

  static constexpr bool kStreams = kConfig.stages > 0;
  using Stream = gpu::RowStream<T, kThreads, max(kConfig.stages, 2)>;
  struct NoStream {};

  struct Smem {
    conditional_t<kStreams, typename Stream::Smem, NoStream> stream;
    gpu::RankSelectSmem<kThreads> select;
    uint64_t bound;
    int count;                           // candidates of this block, also those there was no room for
    alignas(16) uint64_t candidates[2];  // in truth as many as there is room for
  };
  static_assert(sizeof(Smem) - sizeof(Smem::candidates) <= kConfig.smem_bytes(0));

  static __device__ void run(const Params& p) {
    gpu::ptx::griddep_wait();
    TopkKernel(p, int64_t(blockIdx.x) / kCluster, Group::rank()).select();
  }

 private:
  const Params& p_;
  Smem& smem_;
  const int64_t number_;  // of the row
  const int rank_;        // of this block
  Row row_;               // the window
  int wanted_;            // elements to be chosen
  int chunks_;            // of this block

  __device__ TopkKernel(const Params& p, int64_t number, int rank)
      : p_(p), smem_(*reinterpret_cast<Smem*>(gpu::dynamic_smem())), number_(number), rank_(rank) {
    const RowWindow window = window_of(p, number);
    row_ = Row(static_cast<const T*>(p.input) + number * p.row_stride + window.start, window.length, 1, 0);
    wanted_ = min(p.k, row_.length);
    chunks_ = (ceil_div(row_.count, gpu::kWarpSize) + kCluster - 1 - rank) / kCluster;
  }

  /// The vector that this lane has of chunk `c` of this block.
  __device__ int vec_of(int c) const { return (c * kCluster + rank_) * gpu::kWarpSize + int(threadIdx.x) % gpu::kWarpSize; }
  __device__ T element(int index) const { return row_.base[int64_t(index) + row_.skip]; }

  __device__ void select() {
    const bool leads = rank_ == 0;
    if (wanted_ == row_.length && (!p_.sorted || row_.length > p_.capacity)) {  // all of them
      gpu::ptx::griddep_launch_dependents();
      if (!p_.sorted) {
        write_all(rank_, kCluster);
      } else if (leads) {
        write_all(0, 1);
        sort_written();
      }
      return;
    }
    uint64_t bound = 0;
    int total = -1;  // candidates
    if (p_.k <= p_.capacity / 4 || row_.length <= p_.capacity) {
      bound = collect();
      gpu::ptx::griddep_launch_dependents();
      total = gather(bound);
    }
    if (!leads) return;
    bool sure = total >= wanted_ && total <= p_.capacity;
    if (sure) {
      sort_candidates(total, p_.capacity);
      sure = smem_.candidates[wanted_ - 1] >= bound;
    }
    if (!sure && !select_by_radix()) return;  // written: too many for shared memory
    if (sure != p_.sorted) {                  // candidates are sorted, or else in the order of their indices
      if (sure) turn_candidates();
      sort_candidates(wanted_, p_.capacity);
    }
    write_candidates(sure && !p_.sorted);
  }

  // ---- candidates ---------------------------------------------------------------------------------------------------

  /// Collects this block's elements that reach a bound, and returns it. They contain what is to be chosen of this block if every
  /// block's bound is at most the rank of the last chosen.
  __device__ uint64_t collect() {
    if (threadIdx.x == 0) smem_.count = 0;
    const int warp = int(threadIdx.x) / gpu::kWarpSize;
    const bool whole = chunks_ <= kSamples;
    Vec held[kVecs];
#pragma unroll
    for (int i = 0; i < kVecs; ++i) held[i] = row_.load(sampled_vec(i));
    if (!whole && !kStreams) prefetch();
    uint64_t bound = bound_of(held);
    for (bool in_registers = whole;; in_registers = false) {
      const Limits limits = limits_of(bound);
      if (in_registers) {
#pragma unroll
        for (int i = 0; i < kVecs; ++i) offer(held[i], sampled_vec(i), limits, bound);
      } else if constexpr (kStreams) {
        const int own = chunks_ > warp ? (chunks_ - warp - 1) / kWarps + 1 : 0;
        Stream::for_each(smem_.stream, row_, vec_of(warp), kWarps * kCluster * gpu::kWarpSize, own, Row::kNan,
                         [&](const Vec& v, int vec) { offer(v, vec, limits, bound); });
      } else {
#pragma unroll 1
        for (int chunk = warp; chunk < chunks_; chunk += kSamples) {
#pragma unroll
          for (int i = 0; i < kVecs; ++i) held[i] = row_.load(vec_of(chunk + i * kWarps));
#pragma unroll
          for (int i = 0; i < kVecs; ++i) offer(held[i], vec_of(chunk + i * kWarps), limits, bound);
        }
      }
      __syncthreads();  // count and candidates are complete
      if (smem_.count <= p_.capacity) return bound;
      bound = raised();
    }
  }

  /// The i-th vector of this lane's sample: the block's chunks if registers can hold them, else as many, spread over the row.
  __device__ int sampled_vec(int i) const {
    const int sample = i * kWarps + int(threadIdx.x) / gpu::kWarpSize;
    return vec_of(chunks_ <= kSamples ? sample : int(int64_t(sample) * chunks_ / kSamples));
  }

  /// What as many of the candidates reach as are wanted: surely no more than the last chosen, and a fourth of those that did not fit.
  __device__ uint64_t raised() {
    const uint64_t bound = gpu::select_rank<kThreads>(
        wanted_, wanted_ / 4, 0,
        [&](const auto& count) {
#pragma unroll 1
          for (int i = int(threadIdx.x); i < p_.capacity; i += kThreads) count(smem_.candidates[i]);
        },
        smem_.select);
    if (threadIdx.x == 0) smem_.count = 0;
    __syncthreads();  // the candidates have been read
    return bound;
  }

  /// A line of 128 bytes a thread: the memory is busy while the bound is found.
  __device__ void prefetch() const {
    const int chunk = int(threadIdx.x) / 4;
    const int first = row_.first_index((chunk * kCluster + rank_) * gpu::kWarpSize + int(threadIdx.x) % 4 * 8);
    if (chunk < chunks_ && first >= 0 && first < row_.length) gpu::ptx::prefetch_l2(row_.base + first + row_.skip);
  }

  /// What a few more than the wanted elements of this block reach, as the elements held tell.
  __device__ uint64_t bound_of(const Vec (&held)[kVecs]) {
    if (row_.length <= p_.capacity && row_.length <= 2 * wanted_) {
      __syncthreads();  // the count is zero
      return 0;
    }
    const int sampled = min(chunks_, kSamples);
    int wanted = wanted_;
    if (kCluster > 1 || chunks_ > kSamples) {  // the sample's share of the chosen, and four standard deviations more
      const float share = float(wanted_) * float(sampled * gpu::kWarpSize * kVec) * gpu::ptx::rcp(float(row_.length));
      wanted = min(wanted, int(share + 4 * share * gpu::ptx::rsqrt(share + 1)) + 5);
    }
    const int slack = wanted / 4;
    // Few: the largest element of each thread will do. Many: every element, read again, from L1.
    const bool few = 2 * wanted <= min(chunks_, kWarps) * gpu::kWarpSize;
    float best = -kInfinity;
    int best_index = row_.first_index(sampled_vec(0));
#pragma unroll
    for (int i = 0; i < kVecs; ++i) {
      float x[kVec];
      held[i].to_float(x);
#pragma unroll
      for (int j = 0; j < kVec; ++j)
        if (x[j] > best) best = x[j], best_index = row_.first_index(sampled_vec(i)) + j;
    }
    const uint64_t bound = gpu::select_rank<kThreads>(
        wanted, slack, 32,
        [&](const auto& count) {
          if (few) {
            if (sampled_vec(0) < row_.count) count(topk_rank(best, best_index, p_.tie_break));
          } else {
#pragma unroll 1
            for (int i = 0; i < kVecs; ++i) count_ranks(row_.load(sampled_vec(i)), sampled_vec(i), count);
          }
        },
        smem_.select);
    const bool ties = bound != 0 && smem_.select.above + smem_.select.count > wanted + slack;
    return ties ? bound_among_ties(held, value_of_order_key<float>(key_of_rank(bound)), wanted) : bound;
  }

  /// Elements of this value are many: as large a part of the row is let in as of the sample is wanted.
  __device__ uint64_t bound_among_ties(const Vec (&held)[kVecs], float value, int wanted) {
    uint32_t counts = 0;  // of the elements held, those above, and in the low half those equal
#pragma unroll
    for (int i = 0; i < kVecs; ++i) {
      float x[kVec];
      held[i].to_float(x);
#pragma unroll
      for (int j = 0; j < kVec; ++j) counts += x[j] > value ? 1u << 16 : x[j] == value ? 1u : 0u;
    }
    int total;
    gpu::block_sum_before<kThreads>(int(counts), total, smem_.select.partial);
    const int above = int(uint32_t(total) >> 16), equal = int(uint32_t(total) & 0xffffu);
    if (above >= wanted) return uint64_t(order_key(value) + 1) << 32;
    const float rest = float(wanted - above);
    const float part = (rest + 4 * rest * gpu::ptx::rsqrt(rest) + 4) * gpu::ptx::rcp(float(max(equal, 1)));
    const int place = part < 1 ? min(int(part * float(row_.length)), row_.length - 1) : row_.length - 1;
    return topk_rank(value, p_.tie_break == TieBreak::small ? place : row_.length - 1 - place, p_.tie_break);
  }

  template <class Count>
  __device__ void count_ranks(const Vec& held, int vec, const Count& count) const {
    float x[kVec];
    held.to_float(x);
#pragma unroll
    for (int j = 0; j < kVec; ++j)
      if (is_inside(row_.first_index(vec) + j)) count(topk_rank(x[j], row_.first_index(vec) + j, p_.tie_break));
  }
  __device__ bool is_inside(int index) const { return uint32_t(index) < uint32_t(row_.length); }

  /// The bound as what elements are compared with first. Elements of its value pass up to the index `last`, or from it on.
  struct Limits {
    float limit, above;
    uint32_t last;
  };
  __device__ Limits limits_of(uint64_t bound) const {
    const uint32_t key = key_of_rank(bound);
    return {value_of_order_key<float>(key), value_of_order_key<float>(key + 1), uint32_t(topk_index(bound, p_.tie_break))};
  }

  /// Takes the elements that reach the bound. NaN passes for what it is worth.
  __device__ void offer(const Vec& held, int vec, const Limits& limits, uint64_t bound) {
    float x[kVec];
    held.to_float(x);
    const uint32_t first = uint32_t(max(row_.first_index(vec), 0));
    const bool ties = p_.tie_break == TieBreak::small ? first <= limits.last : first + kVec > limits.last;
    const float limit = ties ? limits.limit : limits.above;
    uint32_t hits = 0;
#pragma unroll
    for (int j = 0; j < kVec; ++j) hits |= !(x[j] < limit) ? 1u << j : 0u;
#pragma unroll 1
    for (; hits; hits &= hits - 1) {
      const int j = __ffs(int(hits)) - 1, index = row_.first_index(vec) + j;
      float value = x[0];
#pragma unroll
      for (int i = 1; i < kVec; ++i) value = i == j ? x[i] : value;  // registers have no addresses
      const uint64_t rank = topk_rank(value, index, p_.tie_break);
      if (rank >= bound && is_inside(index)) {
        const int place = atomicAdd(&smem_.count, 1);
        if (place < p_.capacity) smem_.candidates[place] = rank;
      }
    }
  }

  /// Brings the candidates of all blocks to the first. Returns their number; more than p_.capacity: some are missing. The bound
  /// becomes the greatest of all blocks.
  __device__ int gather(uint64_t& bound) {
    if constexpr (kCluster == 1) {
      return smem_.count;
    } else {
      if (threadIdx.x == 0) smem_.bound = bound;
      Group::sync();  // every block's count and bound are known
      int before = 0, total = 0;
#pragma unroll
      for (int i = 0; i < kCluster; ++i) {
        const Smem& block = *Group::of(&smem_, i);
        const int count = block.count;
        if (i < rank_) before += count;
        total += count;
        bound = max(bound, block.bound);
      }
      if (rank_ > 0 && total <= p_.capacity) {
        uint64_t* first = Group::of(smem_.candidates, 0) + before;
#pragma unroll 1
        for (int i = int(threadIdx.x); i < smem_.count; i += kThreads) first[i] = smem_.candidates[i];
      }
      Group::sync();  // the first block has all; nobody reads the others' memory any more
      return total;
    }
  }

  // ---- radix --------------------------------------------------------------------------------------------------------

  /// Exact whatever the row holds and however many are wanted, by one block: up to six passes for the last rank chosen, one that
  /// lists what reaches it in the order of the indices. False if the list had no room: it has been written instead, as it is to be.
  __device__ bool select_by_radix() {
    const uint64_t bound = gpu::select_rank<kThreads>(
        wanted_, 0, 0,
        [&](const auto& count) {
#pragma unroll 1
          for (int vec = int(threadIdx.x); vec < row_.count; vec += kThreads) count_ranks(row_.load(vec), vec, count);
        },
        smem_.select);
    const bool fits = wanted_ <= p_.capacity;
    int written = 0;
    for (int first = 0; first < row_.count && written < wanted_; first += kThreads) {
      const int vec = first + int(threadIdx.x);
      const Vec held = row_.load(vec);
      int count = 0, total;
      count_ranks(held, vec, [&](uint64_t rank) { count += rank >= bound; });
      int place = written + gpu::block_sum_before<kThreads>(count, total, smem_.select.partial);
      if (count > 0) {
        count_ranks(held, vec, [&](uint64_t rank) {
          if (rank < bound) return;
          if (fits)
            smem_.candidates[place] = rank;
          else
            write(place, topk_index(rank, p_.tie_break), key_of_rank(rank));
          ++place;
        });
      }
      written += total;
      __syncthreads();  // partial sums have been read
    }
    if (fits) return true;
    write_rest();
    if (p_.sorted) sort_written();
    return false;
  }

  // ---- results ------------------------------------------------------------------------------------------------------

  /// Greatest first. A function of its own, for two calls: it is as long as the rest. It finds shared memory itself, for through a pointer
  /// that is passed every access would be generic.
  static __device__ __noinline__ void sort_candidates(int count, int capacity) {
    Smem& smem = *reinterpret_cast<Smem*>(gpu::dynamic_smem());
    gpu::sort_ranks<kThreads>(smem.candidates, count, capacity, smem.select);
  }

  /// The same candidates as numbers whose order is that of the indices.
  __device__ void turn_candidates() {
    const bool small = p_.tie_break == TieBreak::small;
    __syncthreads();  // every thread has compared the last of the chosen with the bound
#pragma unroll 1
    for (int i = int(threadIdx.x); i < wanted_; i += kThreads) {
      const uint64_t rank = smem_.candidates[i];
      smem_.candidates[i] = uint64_t(small ? uint32_t(rank) : ~uint32_t(rank)) << 32 | key_of_rank(rank);
    }
  }
  __device__ void write_candidates(bool turned) const {
#pragma unroll 1
    for (int i = int(threadIdx.x); i < wanted_; i += kThreads) {
      const uint64_t c = smem_.candidates[i];
      if (turned)
        write(i, int(~uint32_t(c >> 32)), uint32_t(c));
      else
        write(i, topk_index(c, p_.tie_break), key_of_rank(c));
    }
    write_rest();
  }

  /// The key knows the value, but for NaN and the sign of zero.
  __device__ void write(int place, int index, uint32_t key) const {
    write_index(p_, number_, place, index);
    if (!p_.values) return;
    T* value = static_cast<T*>(p_.values) + number_ * p_.k + place;
    if (key == 0 || key == 0x80000000u)
      *value = element(index);
    else
      gpu::store_float(value, value_of_order_key<float>(key));
  }
  __device__ void write_rest() const {
    T padding;
    gpu::store_float(&padding, p_.padding);
#pragma unroll 1
    for (int i = wanted_ + int(threadIdx.x); i < p_.k; i += kThreads) write_padding(p_, number_, i, padding);
  }
  /// The whole window, by this and other blocks.
  __device__ void write_all(int block, int blocks) const {
#pragma unroll 1
    for (int i = block * kThreads + int(threadIdx.x); i < row_.length; i += blocks * kThreads) {
      write_index(p_, number_, i, i);
      if (p_.values) static_cast<T*>(p_.values)[number_ * p_.k + i] = element(i);
    }
    if (block == 0) write_rest();
  }
  /// Sorts a row of results in global memory: more than shared memory holds. Slow, and the one thing that top-k is not for.
  __device__ void sort_written() const {
    T* values = static_cast<T*>(p_.values) + number_ * p_.k;
    int64_t* indices = static_cast<int64_t*>(p_.indices) + number_ * p_.k;
    gpu::block_sort<kThreads>(wanted_, [&](int i, int j) {
      const T a = values[i], b = values[j];
      const int64_t a_index = indices[i], b_index = indices[j];
      if (topk_rank(gpu::load_float(&a), int32_t(a_index), p_.tie_break) >= topk_rank(gpu::load_float(&b), int32_t(b_index), p_.tie_break))
        return;
      values[i] = b, values[j] = a;
      indices[i] = b_index, indices[j] = a_index;
    });
  }
};

}  // namespace flashinfer
