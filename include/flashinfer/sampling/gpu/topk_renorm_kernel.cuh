// Filters whole rows by a small top_k: probabilities renormalised, or logits with the rest at -inf.
// Called by sampling/gpu/renorm.hpp; twin of sampling/cpu/renorm.hpp, bit for bit.
//
// topk_selection.cuh reads the row once and leaves the first k in the first block of the row's cluster. Then all blocks fill the row with
// what is not kept, and the first writes the k elements over that. Only then, for the output may be the input.
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
  using Selection = gpu::TopkSelection<kConfig.topk(), false>;
  using Group = typename Selection::Group;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = Selection::kMinBlocks;
  static_assert(kMostTopk <= kThreads);

  static __device__ void run(const Params& p) {
    Selection::begin();
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    const int row = int(blockIdx.x) / kCluster;
    const int32_t k = p.top_k.at(row, row);
    if (p.mixed && !p.is_topk(k)) return Selection::meet();  // every block of the cluster
    const TieBreak tie_break = TieBreak::small;
    Selection selection(static_cast<const T*>(p.input) + row * p.input_stride, p.vocab_size, k, TopkSamplingConfig::kCapacity, tie_break);
    selection.collect();
    const auto chosen = selection.choose([](int, uint64_t) {});
    Element element;
    if (Group::rank() == 0) {
      if (chosen != Selection::Chosen::sorted) selection.sort();
      element = element_of_thread(selection);
    }
    Group::sync();  // the input has been read
    Out* const output = static_cast<Out*>(p.output) + row * p.output_stride;
    // This block's part of the row, with what is not kept.
    gpu::fill_row<kThreads>(output, gpu::RowVectors<Out>(output, p.vocab_size, kCluster, Group::rank()), kLogits ? -kInfinity : 0.0f);
    Group::sync();  // the row is full
    if (element.index >= 0) gpu::store_float(output + element.index, element.value);
  }

 private:
  using T = number_t<kConfig.input>;
  using Out = number_t<kConfig.output>;
  static constexpr bool kLogits = kConfig.values == RowValues::logits;

  struct Element {
    int index = -1;
    float value = 0;
  };
  /// What thread i writes for the i-th element of the order. NaN is never kept.
  static __device__ Element element_of_thread(const Selection& selection) {
    const int i = int(threadIdx.x);
    const uint64_t first = selection.ranked()[0], rank = i < selection.wanted() ? selection.ranked()[i] : 0;
    gpu::RowWeight<kConfig.values> weight;
    if (!key_of_rank(first) || !weight.set(value_of_order_key<float>(key_of_rank(first)), 1)) return {};
    const bool kept = key_of_rank(rank) != 0;
    const float x = value_of_order_key<float>(key_of_rank(rank));
    const int index = kept ? int(index_of_rank(rank)) : -1;
    if constexpr (kLogits) {
      return {index, x};
    } else {
      uint64_t mass;
      const float f = kept ? weight(x) : 0.0f;
      gpu::block_sum_before<kThreads>(mass_of(f), mass, selection.sums());
      return {index, f * (1.0f / weight_of_mass(mass))};
    }
  }
};

}  // namespace flashinfer
