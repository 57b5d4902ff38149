// Top-k selection: the k first elements of each row in the order of core/row_order.hpp, in the order of their indices or sorted.
// Called by topk/gpu/topk.hpp; twin of topk/cpu/topk.hpp.
//
// Bound by: memory; a row is read once. Few rows: by the chain load, bound, collect, merge, sort.
// Threads:  a cluster of blocks a row (one block below SM90); warps take turns at chunks of 32 16-byte vectors, chunks go round the blocks.
// Method:   a bound that a few more than k elements reach, from a sample of the row (its largest element of each thread, spread over
//           the row); one pass collects what reaches it; the first block sorts the candidates of all and cuts at k. That is exact:
//           where the bound was too high or too low for that, which the counts tell, the row is selected by radix instead, digit by
//           digit. Ranks contain the index, so rows of equal elements are no special case.
// Memory:   shared: the candidates (dynamic) and one histogram.
// Sync:     barriers of the block; with a cluster two of that: counts and bounds are known, candidates have arrived.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/cluster_sm90.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/ptx/prefetch.cuh>
#include <flashinfer/gpu/rank_select.cuh>
#include <flashinfer/gpu/vec.cuh>
#include <flashinfer/topk/topk_params.hpp>

namespace flashinfer {

template <TopkConfig kConfig>
struct TopkKernel {
  using Params = TopkParams;
  using T = number_t<kConfig.input>;
  static constexpr int kThreads = kConfig.threads;
  static constexpr int kMinBlocks = 1024 / kThreads;
  static constexpr int kVecs = kConfig.vecs, kCluster = kConfig.cluster, kCapacity = kConfig.capacity;
  static constexpr int kVec = 16 / int(sizeof(T));
  static constexpr int kWarps = kThreads / gpu::kWarpSize;
  static constexpr int kSamples = kWarps * kVecs;  // chunks that registers hold
  static_assert(kThreads * kVecs * kVec < 1 << 16);
  using Vec = gpu::Vec<T, kVec>;

  struct Smem {
    gpu::RankSelectSmem<kThreads> select;
    uint64_t bound;
    int count;  // candidates of this block, also those there was no room for
  };

  static __device__ void run(const Params& p) {
    __shared__ Smem smem;
    gpu::ptx::griddep_wait();
    const uint32_t rank = kCluster == 1 ? 0 : gpu::ptx::cluster_rank();
    TopkKernel row(p, int64_t(blockIdx.x) / kCluster, int(rank), smem);
    row.select();
  }

 private:
  const Params& p_;
  Smem& smem_;
  uint64_t* candidates_;
  const int64_t row_;
  const int rank_;
  const T* x_;           // the window's first element
  int length_, wanted_;  // elements of the window, and what is to be chosen of them
  int skip_;             // elements of the first vector that lie before the window: vectors are aligned
  int vecs_, chunks_;    // vectors of the window, and chunks of this block

  __device__ TopkKernel(const Params& p, int64_t row, int rank, Smem& smem)
      : p_(p), smem_(smem), candidates_(reinterpret_cast<uint64_t*>(gpu::dynamic_smem())), row_(row), rank_(rank) {
    const RowWindow window = window_of(p, row);
    x_ = static_cast<const T*>(p.input) + row * p.row_stride + window.start;
    length_ = window.length;
    wanted_ = min(p.k, length_);
    skip_ = int(uintptr_t(x_) % 16 / sizeof(T));
    vecs_ = ceil_div(length_ + skip_, kVec);
    chunks_ = (ceil_div(vecs_, gpu::kWarpSize) + kCluster - 1 - rank) / kCluster;
  }

  /// The vector that this lane has of chunk `c` of this block.
  __device__ int vec_of(int c) const { return (c * kCluster + rank_) * gpu::kWarpSize + int(threadIdx.x) % gpu::kWarpSize; }
  __device__ int index_of(int vec) const { return vec * kVec - skip_; }

  /// NaN in places outside the window.
  __device__ Vec load(int vec) const {
    const int first = index_of(vec);
    if (first >= 0 && first + kVec <= length_) return Vec::load(x_ + first);
    float x[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i)
      x[i] = first + i >= 0 && first + i < length_ ? gpu::load_float(x_ + first + i) : bit_cast<float>(0x7fffffffu);
    return Vec::from_float(x);
  }

  __device__ void select() {
    const bool leads = rank_ == 0;
    if (wanted_ == length_ && (!p_.sorted || length_ > kCapacity)) {  // all of them
      gpu::ptx::griddep_launch_dependents();
      if (!p_.sorted) {
        write_all(rank_, kCluster);
      } else if (leads) {
        write_all(0, 1);
        sort_written();
      }
      return;
    }
    bool chosen = false;
    if (p_.k <= kConfig.max_candidate_k() || length_ <= kCapacity) {
      uint64_t bound = collect();
      gpu::ptx::griddep_launch_dependents();
      const int total = gather(bound);
      chosen = leads && cut(total, bound);
    }
    if (leads && !chosen) select_by_radix();
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
    for (int i = 0; i < kVecs; ++i) held[i] = load(sampled_vec(i));
    if (!whole) prefetch();
    uint64_t bound = bound_of(held);
    for (bool in_registers = whole;; in_registers = false) {
      const float limit = value_of_order_key<float>(key_of_rank(bound));
      if (in_registers) {
#pragma unroll
        for (int i = 0; i < kVecs; ++i) offer(held[i], sampled_vec(i), limit, bound);
      } else {
#pragma unroll 1
        for (int chunk = warp; chunk < chunks_; chunk += kSamples) {
#pragma unroll
          for (int i = 0; i < kVecs; ++i) held[i] = load(vec_of(chunk + i * kWarps));
#pragma unroll
          for (int i = 0; i < kVecs; ++i) offer(held[i], vec_of(chunk + i * kWarps), limit, bound);
        }
      }
      __syncthreads();  // count and candidates are complete
      if (smem_.count <= kCapacity) return bound;
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
        wanted_, wanted_ / 4,
        [&](const auto& count) {
          for (int i = int(threadIdx.x); i < kCapacity; i += kThreads) count(candidates_[i]);
        },
        smem_.select);
    if (threadIdx.x == 0) smem_.count = 0;
    __syncthreads();  // the candidates have been read
    return bound;
  }

  /// A line of 128 bytes a thread: the memory is busy while the bound is found.
  __device__ void prefetch() const {
    const int chunk = int(threadIdx.x) / 4;
    const int first = index_of((chunk * kCluster + rank_) * gpu::kWarpSize + int(threadIdx.x) % 4 * 8);
    if (chunk < chunks_ && first >= 0 && first < length_) gpu::ptx::prefetch_l2(x_ + first);
  }

  /// What a few more than the wanted elements of this block reach, as the elements held tell.
  __device__ uint64_t bound_of(const Vec (&held)[kVecs]) {
    if (length_ <= kCapacity && length_ <= 2 * wanted_) {
      __syncthreads();  // the count is zero
      return 0;
    }
    const int sampled = min(chunks_, kSamples);
    int wanted = wanted_;
    if (kCluster > 1 || chunks_ > kSamples) {  // the sample's share of the chosen, and four standard deviations more
      const float share = float(wanted_) * float(sampled * gpu::kWarpSize * kVec) / float(length_);
      wanted = min(wanted, int(share + 4 * share * gpu::ptx::rsqrt(share + 1)) + 5);
    }
    const int slack = wanted / 4;
    uint64_t bound;
    if (2 * wanted <= min(chunks_, kWarps) * gpu::kWarpSize) {  // few: the largest element of each thread will do
      float best = -kInfinity;
      int best_index = index_of(sampled_vec(0));
#pragma unroll
      for (int i = 0; i < kVecs; ++i) {
        float x[kVec];
        held[i].to_float(x);
#pragma unroll
        for (int j = 0; j < kVec; ++j)
          if (x[j] > best) best = x[j], best_index = index_of(sampled_vec(i)) + j;
      }
      bound = gpu::select_rank<kThreads, 32>(
          wanted, slack,
          [&](const auto& count) {
            if (sampled_vec(0) < vecs_) count(topk_rank(best, best_index, p_.tie_break));
          },
          smem_.select);
    } else {
      bound = gpu::select_rank<kThreads, 32>(
          wanted, slack,
          [&](const auto& count) {
#pragma unroll
            for (int i = 0; i < kVecs; ++i) count_ranks(held[i], sampled_vec(i), count);
          },
          smem_.select);
    }
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
    const float part = (rest + 4 * rest * gpu::ptx::rsqrt(rest) + 4) / float(max(equal, 1));
    const int place = part < 1 ? min(int(part * float(length_)), length_ - 1) : length_ - 1;
    return topk_rank(value, p_.tie_break == TieBreak::small ? place : length_ - 1 - place, p_.tie_break);
  }

  template <class Count>
  __device__ void count_ranks(const Vec& held, int vec, const Count& count) const {
    float x[kVec];
    held.to_float(x);
#pragma unroll
    for (int j = 0; j < kVec; ++j)
      if (is_inside(index_of(vec) + j)) count(topk_rank(x[j], index_of(vec) + j, p_.tie_break));
  }
  __device__ bool is_inside(int index) const { return uint32_t(index) < uint32_t(length_); }

  /// Takes the elements that reach the bound. `limit` is its value; NaN passes for what it is worth.
  __device__ void offer(const Vec& held, int vec, float limit, uint64_t bound) {
    float x[kVec];
    held.to_float(x);
    bool any = false;
#pragma unroll
    for (int j = 0; j < kVec; ++j) any |= !(x[j] < limit);
    if (!any) return;
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const int index = index_of(vec) + j;
      const uint64_t rank = topk_rank(x[j], index, p_.tie_break);
      if (rank >= bound && is_inside(index)) {
        const int place = atomicAdd(&smem_.count, 1);
        if (place < kCapacity) candidates_[place] = rank;
      }
    }
  }

  /// Brings the candidates of all blocks to the first. Returns their number; more than kCapacity: some are missing. The bound
  /// becomes the greatest of all blocks.
  __device__ int gather(uint64_t& bound) {
    if constexpr (kCluster == 1) {
      return smem_.count;
    } else {
      if (threadIdx.x == 0) smem_.bound = bound;
      gpu::ptx::cluster_sync();  // every block's count and bound are known
      int before = 0, total = 0;
#pragma unroll
      for (int i = 0; i < kCluster; ++i) {
        const Smem& block = *gpu::ptx::cluster_map(&smem_, i);
        const int count = block.count;
        if (i < rank_) before += count;
        total += count;
        bound = max(bound, block.bound);
      }
      if (rank_ > 0 && total <= kCapacity) {
        uint64_t* first = gpu::ptx::cluster_map(candidates_, 0) + before;
        for (int i = int(threadIdx.x); i < smem_.count; i += kThreads) first[i] = candidates_[i];
      }
      gpu::ptx::cluster_sync();  // the first block has all; nobody reads the others' memory any more
      return total;
    }
  }

  /// Sorts the candidates and writes the first of them. False if they are not sure to contain the chosen.
  __device__ bool cut(int total, uint64_t bound) {
    if (total < wanted_ || total > kCapacity) return false;
    gpu::sort_ranks<kThreads>(candidates_, total);
    if (candidates_[wanted_ - 1] < bound) return false;
    write_candidates(p_.sorted);
    return true;
  }

  // ---- radix --------------------------------------------------------------------------------------------------------

  /// Exact whatever the row holds and however many are wanted, by one block: up to six passes for the last rank chosen, one that
  /// writes what reaches it in the order of the indices.
  __device__ void select_by_radix() {
    const uint64_t bound = gpu::select_rank<kThreads>(
        wanted_, 0,
        [&](const auto& count) {
#pragma unroll 2
          for (int vec = int(threadIdx.x); vec < vecs_; vec += kThreads) count_ranks(load(vec), vec, count);
        },
        smem_.select);
    const bool fits = wanted_ <= kCapacity;
    int written = 0;
    for (int first = 0; first < vecs_ && written < wanted_; first += kThreads) {
      const int vec = first + int(threadIdx.x);
      const Vec held = load(vec);
      int count = 0, total;
      count_ranks(held, vec, [&](uint64_t rank) { count += rank >= bound; });
      int place = written + gpu::block_sum_before<kThreads>(count, total, smem_.select.partial);
      if (count > 0) {
        count_ranks(held, vec, [&](uint64_t rank) {
          if (rank < bound) return;
          if (fits)
            candidates_[place] = rank;
          else
            write(place, topk_index(rank, p_.tie_break), key_of_rank(rank));
          ++place;
        });
      }
      written += total;
      __syncthreads();  // partial sums have been read
    }
    if (!fits) {
      write_rest();
      if (p_.sorted) sort_written();
      return;
    }
    if (p_.sorted) gpu::sort_ranks<kThreads>(candidates_, wanted_);
    write_candidates(true);
  }

  // ---- results ------------------------------------------------------------------------------------------------------

  /// The first candidates, which are sorted: as they are, or in the order of their indices.
  __device__ void write_candidates(bool as_they_are) {
    const bool small = p_.tie_break == TieBreak::small;
    if (!as_they_are) {
      auto turn = [&](uint64_t rank) { return uint64_t(small ? uint32_t(rank) : ~uint32_t(rank)) << 32 | key_of_rank(rank); };
      for (int i = int(threadIdx.x); i < wanted_; i += kThreads) candidates_[i] = turn(candidates_[i]);
      gpu::sort_ranks<kThreads>(candidates_, wanted_);
    }
    for (int i = int(threadIdx.x); i < wanted_; i += kThreads) {
      const uint64_t c = candidates_[i];
      if (as_they_are)
        write(i, topk_index(c, p_.tie_break), key_of_rank(c));
      else
        write(i, int(~uint32_t(c >> 32)), uint32_t(c));
    }
    write_rest();
  }

  /// The key knows the value, but for NaN and the sign of zero.
  __device__ void write(int place, int index, uint32_t key) const {
    write_index(p_, row_, place, index);
    if (!p_.values) return;
    T* value = static_cast<T*>(p_.values) + row_ * p_.k + place;
    if (key == 0 || key == 0x80000000u)
      *value = x_[index];
    else
      gpu::store_float(value, value_of_order_key<float>(key));
  }
  __device__ void write_rest() const {
    T padding;
    gpu::store_float(&padding, p_.padding);
    for (int i = wanted_ + int(threadIdx.x); i < p_.k; i += kThreads) write_padding(p_, row_, i, padding);
  }
  /// The whole window, by this and other blocks.
  __device__ void write_all(int block, int blocks) const {
    for (int i = block * kThreads + int(threadIdx.x); i < length_; i += blocks * kThreads) {
      write_index(p_, row_, i, i);
      if (p_.values) static_cast<T*>(p_.values)[row_ * p_.k + i] = x_[i];
    }
    if (block == 0) write_rest();
  }
  /// Sorts a row of results in global memory: more than shared memory holds. Slow, and the one thing that top-k is not for.
  __device__ void sort_written() const {
    T* values = static_cast<T*>(p_.values) + row_ * p_.k;
    int64_t* indices = static_cast<int64_t*>(p_.indices) + row_ * p_.k;
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
