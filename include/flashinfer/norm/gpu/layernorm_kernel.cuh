// LayerNorm, with FP8 results where asked for. Called by norm/gpu/layernorm.hpp; twin of norm/cpu/layernorm.hpp.
//
// Bound by: memory; for few rows by latency.
// Threads:  threads_per_row lanes share a row, rows_per_block rows lie side by side.
// Memory:   a row stays in registers through all three uses; rows too long for that are read three times, twice from L2.
// Sync:     two reductions a row, for the mean and for the variance about it: the difference of two sums would cancel.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/block_reduce.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/vec.cuh>
#include <flashinfer/norm/layernorm_params.hpp>

namespace flashinfer {

template <LayernormConfig kConfig>
struct LayernormKernel {
  using Params = LayernormParams;
  static constexpr int kThreads = kConfig.threads_per_row * kConfig.rows_per_block;
  static constexpr int kMinBlocks = 1;

  static __device__ void run(const Params& p) {
    gpu::ptx::griddep_wait();
    const LayernormKernel kernel(p);
    const float inverse_scale = kernel.inverse_scale();
    const int64_t step = int64_t(gridDim.x) * kConfig.rows_per_block;
    for (int64_t first = int64_t(blockIdx.x) * kConfig.rows_per_block; first < p.num_rows; first += step)
      kernel.normalize(first + int(threadIdx.x) / kLanes, inverse_scale);
    gpu::ptx::griddep_launch_dependents();
  }

 private:
  using In = number_t<kConfig.input>;
  using Weight = number_t<kConfig.weight>;
  using Out = number_t<kConfig.output>;
  static constexpr int kVec = kConfig.vec, kVecs = kConfig.vecs, kLanes = kConfig.threads_per_row;

  const Params& p_;
  const int lane_, vecs_in_row_;

  __device__ explicit LayernormKernel(const Params& p) : p_(p), lane_(int(threadIdx.x) % kLanes), vecs_in_row_(p.hidden_size / kVec) {}

  /// The whole block comes here together; a row past the last takes part in the reductions alone.
  __device__ void normalize(int64_t row, float inverse_scale) const {
    __shared__ gpu::BlockReduceSmem<float> smem;
    const bool there = row < p_.num_rows;
    const In* input = static_cast<const In*>(p_.input) + (there ? p_.input_rows.offset(row) : 0);
    Out* output = static_cast<Out*>(p_.output) + (there ? p_.output_rows.offset(row) : 0);

    gpu::Vec<In, kVec> kept[max(kVecs, 1)];
    float sum = 0;
    for_each_vec(there, [&](int i, int64_t at) {
      const auto v = gpu::Vec<In, kVec>::load(input + at);
      if constexpr (kVecs > 0) kept[i] = v;
      float x[kVec];
      v.to_float(x);
#pragma unroll
      for (float value : x) sum += value;
    });
    const float mean = gpu::block_sum<kLanes>(sum, smem) / float(p_.hidden_size);

    // The row again, less its mean.
    auto centered = [&](int i, int64_t at, float(&x)[kVec]) {
      if constexpr (kVecs > 0) {
        kept[i].to_float(x);
      } else {
        gpu::Vec<In, kVec>::load(input + at).to_float(x);
      }
#pragma unroll
      for (float& value : x) value -= mean;
    };

    float squares = 0;
    for_each_vec(there, [&](int i, int64_t at) {
      float x[kVec];
      centered(i, at, x);
#pragma unroll
      for (float value : x) squares += value * value;
    });
    const float scale = gpu::ptx::rsqrt(gpu::block_sum<kLanes>(squares, smem) / float(p_.hidden_size) + p_.eps);

    for_each_vec(there, [&](int i, int64_t at) {
      float x[kVec], gamma[kVec], beta[kVec];
      centered(i, at, x);
      gpu::Vec<Weight, kVec>::load(static_cast<const Weight*>(p_.gamma) + at).to_float(gamma);
      gpu::Vec<Weight, kVec>::load(static_cast<const Weight*>(p_.beta) + at).to_float(beta);
#pragma unroll
      for (int j = 0; j < kVec; ++j) x[j] = x[j] * scale * gamma[j] + beta[j];
      if constexpr (is_float8(kConfig.output)) {
        gpu::Vec<In, kVec>::from_float(x).to_float(x);
#pragma unroll
        for (float& value : x) value *= inverse_scale;
      }
      gpu::Vec<Out, kVec>::from_float(x).store_global(output + at);
    });
  }

  /// f(i, at) for this thread's vectors of a row: the i-th begins at element `at`.
  template <class F>
  __device__ void for_each_vec(bool there, const F& f) const {
    if constexpr (kVecs > 0) {
#pragma unroll
      for (int i = 0; i < kVecs; ++i)
        if (there && lane_ + i * kLanes < vecs_in_row_) f(i, int64_t(lane_ + i * kLanes) * kVec);
    } else {
#pragma unroll 4
      for (int unit = lane_; unit < vecs_in_row_; unit += kLanes)
        if (there) f(0, int64_t(unit) * kVec);
    }
  }

  __device__ float inverse_scale() const {
    if constexpr (is_float8(kConfig.output)) return 1.0f / (p_.scale ? *p_.scale : p_.scale_value);
    return 1;
  }
};

}  // namespace flashinfer
