// Filters whole rows by a small top_k: probabilities renormalised, or logits with the rest at -inf.
// Called by sampling/gpu/renorm.hpp; twin of sampling/cpu/renorm.hpp, bit for bit.
//
// topk_selection.cuh reads the row once and leaves the first k in the first block of the row's cluster, from which all blocks take them.
// Each fills its slice of the row with what is not kept, and writes those of the k that lie there over it. Only then, for the output may be
// the input; where it is not, filling while the first block chooses gained nothing (H100, 1 to 16 rows).
// Bound by: memory, a read and a write.
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
  using Selection = gpu::TopkSelection<kConfig.topk(), false, false>;
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
    selection.collect();
    const auto chosen = selection.choose(true, [](int, uint64_t) {});
    // In the place of the ranks, thread i's in that of the i-th.
    uint64_t* const elements = selection.ranked();
    const int i = int(threadIdx.x);
    if (Group::rank() == 0) {
      if (chosen != Selection::Chosen::sorted) selection.sort();
      const uint64_t element = element_of_thread(selection);
      __syncthreads();  // the ranks have been read
      if (i < selection.wanted()) elements[i] = element;
    }
    Group::sync();  // the elements are known, the input has been read
    const uint64_t element = i < selection.wanted() ? *Group::of(&elements[i], 0) : kNone;
    Out* const output = static_cast<Out*>(p.output) + row * p.output_stride;
    const gpu::RowVectors<Out> slice(output, p.vocab_size, kCluster, Group::rank());
    gpu::fill_row<kThreads>(output, slice, kLogits ? -kInfinity : 0.0f);
    __syncthreads();  // the slice is full
    const int index = int(uint32_t(element));
    if (element != kNone && slice.holds(index)) gpu::store_float(output + index, bit_cast<float>(uint32_t(element >> 32)));
    Group::leave();
  }

 private:
  using T = number_t<kConfig.input>;
  using Out = number_t<kConfig.output>;
  static constexpr bool kLogits = kConfig.values == RowValues::logits;

  static constexpr uint64_t kNone = ~uint64_t(0);
  /// The value and index that are written of the i-th element of the order, in thread i. NaN is never kept.
  static __device__ uint64_t element_of_thread(const Selection& selection) {
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
