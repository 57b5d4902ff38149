// Top-k selection: the k first elements of each row in the order of core/row_order.hpp, in the order of their indices or sorted.
// Called by topk/gpu/topk.hpp; twin of topk/cpu/topk.hpp. topk_selection.cuh chooses, this writes.
#pragma once

#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/topk/gpu/topk_selection.cuh>

namespace flashinfer {

template <TopkConfig kConfig>
struct TopkKernel {
  using Params = TopkParams;
  using Selection = gpu::TopkSelection<kConfig, true, false>;
  using T = typename Selection::T;
  using Chosen = typename Selection::Chosen;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = Selection::kMinBlocks;

  static __device__ void run(const Params& p) {
    Selection::begin(p.k);
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();  // the next kernel's blocks are there when this one ends
    TopkKernel(p, window_of(p, number())).select();
  }

 private:
  const Params& p_;
  Selection selection_;  // from the row's window

  __device__ TopkKernel(const Params& p, const RowWindow& window)
      : p_(p), selection_(row_of(p, window.start), window.length, p.k, p.capacity, p.tie_break, p.k) {}

  /// The address alone: what it was made of would be kept in registers too.
  static __device__ const T* row_of(const Params& p, int start) {
    return gpu::ptx::opaque(static_cast<const T*>(p.input) + number() * p.row_stride + start);
  }

  /// Of the row: derived where it is needed, for registers are scarce.
  static __device__ int64_t number() { return int64_t(blockIdx.x / kCluster); }

  __device__ int wanted() const { return selection_.wanted(); }

  /// What a block has written of a row: nothing, all of it, or all in the order of the indices though it is to be sorted.
  enum class Written { nothing, row, unsorted };

  __device__ void select() {
    const Written written = write_chosen();
    if (written == Written::nothing) return;
    T padding;
    gpu::store_float(&padding, p_.padding);
#pragma unroll 1
    for (int i = wanted() + int(threadIdx.x); i < p_.k; i += kThreads) write_padding(p_, number(), i, padding);
    if (written == Written::unsorted) sort_written();
  }

  __device__ Written write_chosen() {
    const Written in_order = p_.sorted ? Written::unsorted : Written::row;
    const int rank = Selection::Group::rank(), length = selection_.row().length;
    if (wanted() == length && (!p_.sorted || length > p_.capacity)) {  // all of them
      Selection::meet();
      if (p_.sorted && rank > 0) return Written::nothing;
      write_all(rank, p_.sorted ? 1 : kCluster);
      return rank == 0 ? in_order : Written::nothing;
    }
    if (p_.k <= p_.capacity / 4 || length <= p_.capacity) selection_.collect();
    const Chosen chosen = selection_.choose(p_.sorted, [&](int place, uint64_t rank) { write(place, rank, false); });
    if (chosen == Chosen::elsewhere) return Written::nothing;
    if (chosen == Chosen::overflow) return in_order;
    if (chosen == Chosen::among_few) {
      write_few();
      return Written::row;
    }
    if (chosen == Chosen::cut) {
      selection_.for_each_by_index([&](int place, uint64_t rank) { write(place, rank, false); });
      return Written::row;
    }
    const bool sorted = chosen == Chosen::sorted;
    if (sorted != p_.sorted) {
      if (sorted) turn_candidates();
      selection_.sort();
    }
    write_candidates(sorted && !p_.sorted);
    return Written::row;
  }

  /// Every thread places its candidate and writes it.
  __device__ void write_few() const {
    const int count = selection_.num_ranked();
    gpu::PlacedRank own = selection_.place(0, count);
    bool chosen = uint32_t(own.place) < uint32_t(wanted());
    if (!p_.sorted) {
      const int behind = count + count % 2;  // where the chosen go, to be placed by their indices
      if (chosen) selection_.ranked()[behind + own.place] = turned(own.rank);
      __syncthreads();  // they are there
      own = selection_.place(behind, wanted());
      chosen = own.place >= 0;
    }
    if (chosen) write(own.place, own.rank, !p_.sorted);
  }

  /// The same candidate as a number whose order is that of the indices.
  __device__ uint64_t turned(uint64_t rank) const {
    return uint64_t(p_.tie_break == TieBreak::small ? uint32_t(rank) : ~uint32_t(rank)) << 32 | key_of_rank(rank);
  }
  __device__ void turn_candidates() {
    uint64_t* const ranks = selection_.ranked();
    __syncthreads();  // every thread has compared the last of the chosen with the bound
#pragma unroll 1
    for (int i = int(threadIdx.x); i < wanted(); i += kThreads) ranks[i] = turned(ranks[i]);
  }
  __device__ void write_candidates(bool turned) const {
#pragma unroll 1
    for (int i = int(threadIdx.x); i < wanted(); i += kThreads) write(i, selection_.ranked()[i], turned);
  }

  /// The key knows the value, but for NaN and the sign of zero.
  __device__ void write(int place, uint64_t rank, bool turned) const {
    const int index = turned ? int(~uint32_t(rank >> 32)) : topk_index(rank, p_.tie_break);
    const uint32_t key = turned ? uint32_t(rank) : key_of_rank(rank);
    write_index(p_, number(), place, index);
    if (!p_.values) return;
    T* value = static_cast<T*>(p_.values) + number() * p_.k + place;
    if (key == 0 || key == 0x80000000u)
      *value = selection_.element(index);
    else
      gpu::store_float(value, value_of_order_key<float>(key));
  }
  /// The whole window, by this and other blocks.
  __device__ void write_all(int block, int blocks) const {
#pragma unroll 1
    for (int i = block * kThreads + int(threadIdx.x); i < selection_.row().length; i += blocks * kThreads) {
      write_index(p_, number(), i, i);
      if (p_.values) static_cast<T*>(p_.values)[number() * p_.k + i] = selection_.element(i);
    }
  }
  /// Sorts a row of results in global memory: more than shared memory holds. Slow, and the one thing that top-k is not for.
  __device__ void sort_written() const {
    T* values = static_cast<T*>(p_.values) + number() * p_.k;
    int64_t* indices = static_cast<int64_t*>(p_.indices) + number() * p_.k;
    gpu::block_sort<kThreads>(wanted(), [&](int i, int j) {
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
