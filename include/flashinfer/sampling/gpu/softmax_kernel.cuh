// Softmax over the vocabulary, with a temperature for each row.
// Called by sampling/gpu/softmax.hpp; twin of sampling/cpu/softmax.hpp, bit for bit.
//
// Bound by: memory, a read and a write; for few rows by two barriers of the cluster.
// Threads:  a cluster of blocks a row, each with a slice of it; for many rows clusters that take rows in turn, three blocks an SM, so
//           that some copy and write while others wait for their clusters.
// Memory:   a slice in shared memory, where its weights take the place of its elements, with room for those of 16-bit rows if there is.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/sampling/gpu/row_passes.cuh>
#include <flashinfer/sampling/sampling_config_params.hpp>
#include <flashinfer/sampling/softmax_params.hpp>

namespace flashinfer {

template <SoftmaxConfig kConfig>
struct SoftmaxKernel {
  using Params = SoftmaxParams;
  static constexpr int kThreads = kConfig.threads, kCluster = kConfig.cluster, kMinBlocks = kConfig.blocks;

  static __device__ void run(const Params& p) {
    Smem& smem = *reinterpret_cast<Smem*>(gpu::held_dynamic_smem());
    static_assert(sizeof(Smem) <= kConfig.smem_bytes());
    Passes passes(Reader(smem.reader, Group::rank(), p.vocab_size, int(blockIdx.x) / kCluster), Group(smem.group));
    Group::sync();  // the barriers of the reader are initialised, and every block has begun
    gpu::ptx::griddep_wait();
    const int step = int(gridDim.x) / kCluster, num_rows = int(p.num_rows);
    auto row_at = [&p](int64_t row) { return static_cast<const T*>(p.input) + row * p.input_stride; };
    gpu::ptx::griddep_launch_dependents();
    for (int row = int(blockIdx.x) / kCluster; row < num_rows; row += step) {
      passes.reader.copy_ahead(step, num_rows, row_at);
      passes.reader.open(row_at(row));
      softmax(passes, p.output + row * p.output_stride, p.temperature.at(row, row));
      passes.reader.close();
    }
  }

 private:
  using T = number_t<kConfig.input>;
  using Reader = gpu::RowReader<T, kThreads, kCluster, kConfig.chunks, kConfig.widens>;
  using Group = gpu::RowGroup<kThreads, kCluster>;
  using Passes = gpu::RowPasses<RowValues::logits, Reader, Group>;

  struct Smem {
    typename Reader::Smem reader;
    typename Group::Smem group;
  };

  static __device__ void softmax(Passes& passes, float* output, float temperature) {
    gpu::RowWeight<RowValues::logits> weight;
    const float largest = passes.template look<true>();
    if (largest != largest) return passes.fill(output, bit_cast<float>(0x7fc00000u));
    if (!weight.set(largest, temperature)) return passes.fill(output, 0.0f);
    if (is_greedy(temperature)) {
      passes.write(output, weight, {passes.first(largest), mass_of(1)}, 1.0f);
    } else if constexpr (Reader::kReplaces) {
      const float mass = weight_of_mass(passes.weigh(weight));
      passes.write_weights(output, 1.0f / mass);
    } else {
      const float mass = weight_of_mass(passes.mass_from(weight, gpu::kLowestRank));
      passes.write_all(output, weight, 1.0f / mass);
    }
  }
};

}  // namespace flashinfer
