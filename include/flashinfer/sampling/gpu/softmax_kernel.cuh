// Softmax over the vocabulary, with a temperature for each row.
// Called by sampling/gpu/softmax.hpp; twin of sampling/cpu/softmax.hpp, bit for bit.
//
// Bound by: memory, a read and a write; for few rows by a barrier of the cluster.
// Threads:  a cluster of blocks a row, each with a slice of it; for many rows clusters that take rows in turn, three blocks an SM, so
//           that some copy and write while others wait for their clusters.
// Memory:   a slice in shared memory, where its weights take the place of its elements, with room for those of 16-bit rows if there is.
// Method:   every block looks at the same sample of the row, elements weigh what that says as they arrive (softmax_params.hpp), and the
//           blocks meet once, for the sum. As a vector is written, the same vector of the next row is copied. H200, us at 1 / 128 / 512
//           rows: 5.2 / 43 / 157; by the row's maximum, with another pass and barrier, and copies that begin when the block has written,
//           5.7 / 54 / 194.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/row_slots.cuh>
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
    const int first = int(blockIdx.x) / kCluster, step = int(gridDim.x) / kCluster, num_rows = int(p.num_rows);
    SoftmaxKernel kernel(Passes(reader_of(smem.reader, p.vocab_size), Group(smem.group)), p.vocab_size);
    Group::begin(smem.group);
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    auto row_at = [&p](int64_t row) { return static_cast<const T*>(p.input) + row * p.input_stride; };
    kernel.look_ahead(row_at(first));
    kernel.passes_.reader.open(row_at(first));
    for (int row = first; row < num_rows; row += step)
      kernel.softmax(row + step < num_rows ? row_at(row + step) : nullptr, p.output + row * p.output_stride, p.temperature.at(row, row));
  }

 private:
  using T = number_t<kConfig.input>;
  static constexpr bool kHeld = kConfig.chunks > 0, kReplaces = kHeld && (is_same_v<T, float> || kConfig.widens);
  using Reader =
      conditional_t<kHeld, gpu::RowSlots<T, kThreads, kCluster, max(kConfig.chunks, 1), kConfig.widens>, gpu::RowReader<T, kThreads, 1, 0>>;
  using Group = gpu::RowGroup<kThreads, kCluster, 3, gpu::RowShare::rounds>;
  using Passes = gpu::RowPasses<RowValues::logits, Reader, Group>;
  using RowWeight = gpu::RowWeight<RowValues::logits>;

  struct Smem {
    typename Reader::Smem reader;
    typename Group::Smem group;
  };

  static __device__ Reader reader_of(typename Reader::Smem& smem, int vocab_size) {
    if constexpr (kHeld) {
      return Reader(smem, Group::rank(), vocab_size);
    } else {
      return Reader(smem, 0, vocab_size, 0);
    }
  }

  static constexpr int kSampled = SoftmaxSample::kGroups / (kThreads / gpu::kWarpSize);  // elements of a thread
  static_assert(SoftmaxSample::kGroup == gpu::kWarpSize && kSampled > 0);

  Passes passes_;
  const int vocab_size_;
  T sample_[kSampled];  // of the row that comes next
  __device__ SoftmaxKernel(const Passes& passes, int vocab_size) : passes_(passes), vocab_size_(vocab_size) {}

  /// Of the row that the reader has begun with. `next`: the one after it, if there is one.
  __device__ void softmax(const T* next, float* output, float temperature) {
    const SoftmaxWeight by_sample(largest_of_sample(), temperature);
    if (next) look_ahead(next);
    const bool weighed = by_sample.is_known() && !is_greedy(temperature);
    float largest, mass = 0;
    if (weighed) {
      const Seen seen = weigh(by_sample);
      largest = seen.largest(), mass = SoftmaxMass{seen.light, seen.heavy}.weight();
    } else {
      largest = passes_.template look<true>();
    }
    const bool suits = weighed && by_sample.suits(largest);
    RowWeight weight;
    const bool valid = suits || (weight.set(largest, temperature) && largest == largest), greedy = is_greedy(temperature);
    if (valid && !suits && !greedy) {
      if constexpr (kReplaces) {
        if (weighed) passes_.reader.reload();
        mass = weight_of_mass(weigh_again(weight));
      } else {
        mass = weight_of_mass(passes_.mass_from(weight, gpu::kLowestRank));
      }
    }
    if (!valid) {
      passes_.fill(output, largest != largest ? largest : 0.0f);
    } else if (greedy) {
      passes_.write(output, weight, {passes_.first(largest), mass_of(1)}, 1.0f);
    } else if constexpr (kReplaces) {
      return write_weights(next, output, 1.0f / mass);
    } else if (suits) {
      passes_.write_all(output, by_sample, 1.0f / mass);
    } else {
      passes_.write_all(output, weight, 1.0f / mass);
    }
    if (next) passes_.reader.open(next);
  }

  /// Asks for a row's sample before its copies, which it would wait for.
  __device__ void look_ahead(const T* row) {
    const int lane = int(threadIdx.x) % gpu::kWarpSize, warp = int(threadIdx.x) / gpu::kWarpSize;
#pragma unroll
    for (int i = 0; i < kSampled; ++i) sample_[i] = row[SoftmaxSample::index(warp * kSampled + i, lane, vocab_size_)];
  }
  /// The largest element that is not NaN, in every thread.
  __device__ float largest_of_sample() {
    float largest = -kInfinity;
#pragma unroll
    for (int i = 0; i < kSampled; ++i) largest = fmaxf(largest, gpu::load_float(&sample_[i]));
    return value_of_order_key<float>(uint32_t(passes_.group.max_of_block(order_key(largest))));
  }

  /// What the threads of a row have seen of it together.
  struct Seen {
    uint64_t light = 0, heavy = 0;  // masses
    uint32_t most = 0;              // order_key of the largest element; above all others: there is a NaN
    __device__ Seen of_warp() const { return {gpu::warp_sum(light), gpu::warp_sum(heavy), gpu::warp_max(most)}; }
    __device__ float largest() const { return most == ~0u ? bit_cast<float>(0x7fc00000u) : value_of_order_key<float>(most); }
  };
  /// The first pass over a row.
  __device__ Seen weigh(const SoftmaxWeight& weight) {
    float most = -kInfinity;
    gpu::MassSum light;
    uint64_t heavy = 0;
    const auto add = [&](float(&x)[4]) {  // makes weights of elements
      bool any = false;
      float f[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        most = gpu::ptx::max_or_nan(most, x[j]);
        f[j] = x[j] = weight(x[j]);
        any |= f[j] >= SoftmaxMass::kHeavy;
      }
      if (any) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (f[j] >= SoftmaxMass::kHeavy) heavy += SoftmaxMass::mass_of_heavy(f[j]), f[j] = 0;
      }
      light.add(f);
    };
    if constexpr (kReplaces) {
      passes_.reader.replace_first(add);
    } else {
      passes_.reader.for_each_first([&](const typename Reader::Vector& v) {
        float x[Reader::kVec];
        v.to_float(x);
#pragma unroll
        for (int i = 0; i < Reader::kVec; i += 4) {
          float four[4] = {x[i], x[i + 1], x[i + 2], x[i + 3]};
          add(four);
        }
      });
    }
    return passes_.group.all(Seen{light.total(), heavy, most != most ? ~0u : order_key(most)});
  }
  /// The mass of a row whose maximum is known, and whose weights take the place of its elements.
  __device__ uint64_t weigh_again(const RowWeight& weight) {
    gpu::MassSum sum;
    passes_.reader.replace([&](float(&x)[4]) {
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = weight(fmaxf(x[j], -kInfinity));
      sum.add(x);
    });
    return passes_.group.sum(sum.total());
  }
  /// The weights times `factor`, while the next row is copied.
  __device__ void write_weights(const T* next, float* output, float factor) {
    const gpu::RowWriter<float, 4> writer(output, passes_.reader.row());
    passes_.reader.for_each_replaced(next, [&](const float(&x)[4], int first) {
      float y[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) y[j] = x[j] * factor;
      writer.write(y, first);
    });
  }
};

}  // namespace flashinfer
