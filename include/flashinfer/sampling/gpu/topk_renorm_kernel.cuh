// Filters whole rows by a small top_k: probabilities renormalised, or logits with the rest at -inf.
// Called by sampling/gpu/renorm.hpp; twin of sampling/cpu/renorm.hpp, bit for bit.
//
// topk_selection.cuh reads the row once and leaves the first k in the first block of the row's cluster. Meanwhile the others fill the row
// with what is not kept, over which the first writes the k. Where the output is the input, or a row has one block, all of them take the k
// from the first when it knows them, and each fills its slice and writes those that lie there.
// Bound by: memory, a read and a write. H200, us of a mask of 1 / 64 rows: 6.2 / 24.6, where rows are filled when the k are known
//           7.4 / 26.3. What is read leaves L2 first: else the reads of the next launch wait for what this one has written, 128 / 512 rows
//           41.5 / 144.8 in place of 38.9 / 138.9.
#pragma once

#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/sampling/gpu/row_weight.cuh>
#include <flashinfer/sampling/renorm_params.hpp>
#include <flashinfer/sampling/sampling_config_params.hpp>
#include <flashinfer/topk/gpu/topk_selection.cuh>

namespace flashinfer {

template <TopkRenormConfig kConfig>
struct TopkRenormKernel {
  using Params = RenormParams;
  using Selection = gpu::TopkSelection<kConfig.topk(), false, false, gpu::NoSum, true>;
  using Group = typename Selection::Group;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = Selection::kMinBlocks;
  static_assert(kMostTopk <= kThreads);

  static __device__ void run(const Params& p) {
    Selection::begin(0);
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    const int row = int(blockIdx.x) / kCluster;
    const int32_t k = p.top_k.at(row, row);
    if (p.mixed && !p.is_topk(k)) return Selection::meet();  // every block of the cluster
    const TieBreak tie_break = TieBreak::small;
    Selection selection(static_cast<const T*>(p.input) + row * p.input_stride, p.vocab_size, k, TopkSamplingConfig::kCapacity, tie_break,
                        0);
    Out* const output = static_cast<Out*>(p.output) + row * p.output_stride;
    selection.collect();
    const auto chosen = selection.choose(true, [](int, uint64_t) {});
    const bool apart = kCluster > 1 && p.output != p.input;
    if (apart && Group::rank() > 0) {
      fill(output, p.vocab_size, kCluster - 1, Group::rank() - 1);
      gpu::ptx::cluster_arrive();
      return gpu::ptx::cluster_wait();
    }
    if (apart) gpu::ptx::cluster_arrive_relaxed();
    uint64_t element = Group::rank() == 0 ? element_of_thread(selection, chosen) : kNone;
    if (apart) {
      gpu::ptx::cluster_wait();  // the row is full
      return write(output, element);
    }
    // In the place of the ranks, thread i's in that of the i-th.
    uint64_t* const elements = selection.ranked();
    const int i = int(threadIdx.x);
    __syncthreads();  // the ranks have been read
    if (Group::rank() == 0 && i < selection.wanted()) elements[i] = element;
    Group::sync();  // the elements are known, the input has been read
    element = i < selection.wanted() ? *Group::of(&elements[i], 0) : kNone;
    const gpu::RowVectors<Out> slice = fill(output, p.vocab_size, kCluster, Group::rank());
    __syncthreads();  // the slice is full
    if (element != kNone && slice.holds(index_of(element))) write(output, element);
    Group::leave();
  }

 private:
  using T = number_t<kConfig.input>;
  using Out = number_t<kConfig.output>;
  static constexpr bool kLogits = kConfig.values == RowValues::logits;

  /// A slice of the row with what is not kept.
  static __device__ gpu::RowVectors<Out> fill(Out* output, int vocab_size, int slices, int slice) {
    const gpu::RowVectors<Out> vectors(output, vocab_size, slices, slice);
    gpu::fill_row<kThreads>(output, vectors, kLogits ? -kInfinity : 0.0f);
    return vectors;
  }

  // An element that is kept: its value and, in the low half, its index.
  static constexpr uint64_t kNone = ~uint64_t(0);
  static __device__ int index_of(uint64_t element) { return int(uint32_t(element)); }
  static __device__ void write(Out* output, uint64_t element) {
    if (element != kNone) gpu::store_float(output + index_of(element), bit_cast<float>(uint32_t(element >> 32)));
  }
  /// By the first block: the i-th of the order, in thread i. NaN is never kept.
  static __device__ uint64_t element_of_thread(Selection& selection, typename Selection::Chosen chosen) {
    if (chosen != Selection::Chosen::sorted) selection.sort();
    const int i = int(threadIdx.x);
    const uint64_t first = selection.ranked()[0], rank = i < selection.wanted() ? selection.ranked()[i] : 0;
    gpu::RowWeight<kConfig.values> weight;
    if (!key_of_rank(first) || !weight.set(value_of_order_key<float>(key_of_rank(first)), 1)) return kNone;
    const bool kept = key_of_rank(rank) != 0;
    const float x = value_of_order_key<float>(key_of_rank(rank));
    const auto element = [&](float value) { return kept ? uint64_t(bit_cast<uint32_t>(value)) << 32 | index_of_rank(rank) : kNone; };
    if constexpr (kLogits) {
      return element(x);
    } else {
      uint64_t mass;
      const float f = kept ? weight(x) : 0.0f;
      gpu::block_sum_before<kThreads>(mass_of(f), mass, selection.sums());
      return element(f * (1.0f / weight_of_mass(mass)));
    }
  }
};

}  // namespace flashinfer
