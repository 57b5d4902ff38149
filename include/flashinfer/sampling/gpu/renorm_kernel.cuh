// Filters whole rows: probabilities of a top-k prefix, of top_p in it, renormalised, or logits with the rest at -inf. A small top_k alone
// has topk_renorm_kernel.cuh, top_p of probabilities alone topp_renorm_kernel.cuh. Called by sampling/gpu/renorm.hpp; twin of
// sampling/cpu/renorm.hpp, bit for bit.
//
// Bound by: memory, a read and a write; for few rows by four barriers of the cluster.
// Threads, memory: as sampling_kernel.cuh.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/grid_order.cuh>
#include <flashinfer/sampling/gpu/row_filter.cuh>
#include <flashinfer/sampling/renorm_params.hpp>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer {

template <RenormConfig kConfig>
struct RenormKernel {
  using Params = RenormParams;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = kConfig.blocks;

  static __device__ void run(const Params& p) {
    Smem& smem = *reinterpret_cast<Smem*>(gpu::held_dynamic_smem());
    static_assert(sizeof(Smem) <= kConfig.split().smem_bytes());
    Filter filter(smem.filter, Reader(smem.reader, Group::rank(), p.vocab_size, int(blockIdx.x) / kCluster), Group(smem.group));
    Group::begin(smem.group);  // and the barriers of the reader are initialised
    gpu::wait_for_inputs(p.beside);
    const int first = int(blockIdx.x) / kCluster, step = int(gridDim.x) / kCluster, num_rows = int(p.num_rows);
    const auto skips = [&p](int row) { return kConfig.mixed && p.is_topk(p.top_k.at(row, row)); };
    if constexpr (kConfig.mixed) {  // most often nothing is left to do, in no block of the cluster
      bool any = false;
      for (int row = first + int(threadIdx.x) * step; row < num_rows; row += kThreads * step) any |= !skips(row);
      if (!__syncthreads_count(any)) return gpu::end_after_inputs(p.beside);
    }
    auto row_at = [&p](int64_t row) { return static_cast<const T*>(p.input) + row * p.input_stride; };
    gpu::ptx::griddep_launch_dependents();
    for (int row = first; row < num_rows; row += step) {
      if (skips(row)) continue;
      filter.reader.copy_ahead(step, num_rows, row_at, skips);
      filter.reader.open(row_at(row));
      const gpu::RowFilters filters(p.top_k.at(row, row), p.top_p.at(row, row), false, p.vocab_size);
      renorm(filter, static_cast<Out*>(p.output) + row * p.output_stride, filters);
      filter.reader.close();
    }
    Group::leave();
    gpu::end_after_inputs(p.beside);
  }

 private:
  using T = number_t<kConfig.input>;
  using Out = number_t<kConfig.output>;
  using Reader = gpu::RowReader<T, kThreads, kCluster, kConfig.chunks>;
  using Group = gpu::RowGroup<kThreads, kCluster>;
  using Filter = gpu::RowFilter<kConfig.values, Reader, Group, kThreads, kCluster>;
  static constexpr bool kLogits = kConfig.values == RowValues::logits;

  struct Smem {
    typename Reader::Smem reader;
    typename Group::Smem group;
    typename Filter::Smem filter;
  };

  static __device__ void renorm(Filter& filter, Out* output, const gpu::RowFilters& filters) {
    gpu::RowWeight<kConfig.values> weight;
    const float largest = filter.template look<false>();
    if (!weight.set(largest, 1)) return filter.fill(output, kLogits ? -kInfinity : 0.0f);
    uint64_t total = 0;
    const gpu::RowPrefix prefix = filter.keep(weight, filters, gpu::kLowestRank, total, !kLogits);
    if constexpr (kLogits) {
      filter.write(output, [](float x) { return x; }, prefix, 1.0f);
    } else {
      filter.write(output, weight, prefix, 1.0f / weight_of_mass(prefix.mass));
    }
  }
};

}  // namespace flashinfer
