// RMSNorm, with a residual added first, Gemma's weight + 1 and FP8 results where asked for.
// Called by norm/gpu/rmsnorm.hpp; twin of norm/cpu/rmsnorm.hpp.
//
// Bound by: memory; for few rows by the latency of one load, one reduction and one store.
// Threads:  threads_per_row lanes share a row, rows_per_block rows lie side by side; a block takes rows in turn.
// Memory:   a row stays in registers between its two uses, and the next row's loads are in flight meanwhile. Rows too long
//           for that are read twice; the second time from L2.
// Sync:     one reduction a row: shuffles, and block barriers where a row has more than a warp.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/block_reduce.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/ptx/prefetch.cuh>
#include <flashinfer/gpu/vec.cuh>
#include <flashinfer/norm/rmsnorm_params.hpp>

namespace flashinfer {

template <RmsnormConfig kConfig>
struct RmsnormKernel {
  using Params = RmsnormParams;
  static constexpr int kThreads = kConfig.threads_per_row * kConfig.rows_per_block;
  static constexpr int kMinBlocks = max(kConfig.threads_per_sm() / kThreads, 1);

  static __device__ void run(const Params& p) {
    const RmsnormKernel kernel(p);
    kernel.prefetch_weight();
    gpu::ptx::griddep_wait();
    if constexpr (kVecs > 0) {
      kernel.run_from_registers();
    } else {
      kernel.run_twice();
    }
  }

 private:
  using In = number_t<kConfig.input>;
  using Weight = number_t<kConfig.weight>;
  using Out = number_t<kConfig.output>;
  static constexpr int kVec = kConfig.vec, kVecs = kConfig.vecs, kLanes = kConfig.threads_per_row;
  static constexpr bool kResidual = kConfig.residual;
  /// A block of 1024 threads has 64 registers a thread: none for the next row, none to keep the weight.
  static constexpr bool kRoom = kThreads <= 512;

  /// A thread's part of a row: vectors lane, lane + kLanes, ...
  struct Part {
    gpu::Vec<In, kVec> input[max(kVecs, 1)], residual[max(kVecs, 1)];
  };

  const Params& p_;
  const int lane_, vecs_in_row_;
  const float inverse_size_;

  __device__ explicit RmsnormKernel(const Params& p)
      : p_(p), lane_(int(threadIdx.x) % kLanes), vecs_in_row_(p.hidden_size / kVec), inverse_size_(gpu::ptx::rcp(float(p.hidden_size))) {}

  __device__ bool has(int i) const { return lane_ + i * kLanes < vecs_in_row_; }
  __device__ int64_t at(int i) const { return int64_t(lane_ + i * kLanes) * kVec; }
  __device__ const In* input(int64_t row) const { return static_cast<const In*>(p_.input) + p_.input_rows.offset(row); }
  __device__ In* residual(int64_t row) const {
    if constexpr (!kResidual) return nullptr;
    return static_cast<In*>(p_.residual) + p_.residual_rows.offset(row);
  }
  __device__ Out* output(int64_t row) const { return static_cast<Out*>(p_.output) + p_.output_rows.offset(row); }
  __device__ const Weight* weight() const { return static_cast<const Weight*>(p_.weight); }

  /// The weight may be what the predecessor writes, so it is only brought near before griddep_wait, not read.
  __device__ void prefetch_weight() const {
#pragma unroll 1
    for (int64_t i = threadIdx.x * int64_t(128); i < p_.hidden_size * int64_t(sizeof(Weight)); i += kThreads * 128)
      gpu::ptx::prefetch_l2(static_cast<const char*>(p_.weight) + i);
  }

  __device__ void run_from_registers() const {
    __shared__ gpu::BlockReduceSmem<float> smem;
    gpu::Vec<Weight, kVec> weights[kVecs];
    if constexpr (kRoom) {
#pragma unroll
      for (int i = 0; i < kVecs; ++i) weights[i] = has(i) ? gpu::Vec<Weight, kVec>::load(weight() + at(i)) : gpu::Vec<Weight, kVec>::zero();
    }
    const float inverse_scale = this->inverse_scale();

    const int64_t step = int64_t(gridDim.x) * kConfig.rows_per_block;
    int64_t first =
        int64_t(blockIdx.x) * kConfig.rows_per_block;  // of the block: its warps meet at barriers, so all go on until it has none
    int64_t row = first + int(threadIdx.x) / kLanes;
    Part part = load(row);
    for (; first < p_.num_rows; first += step, row += step) {
      Part next;
      if constexpr (kRoom) next = load(row + step);
      if (first + step >= p_.num_rows) gpu::ptx::griddep_launch_dependents();

      float x[kVecs][kVec], squares = 0;
#pragma unroll
      for (int i = 0; i < kVecs; ++i) squares += sum_of_squares(part.input[i], part.residual[i], x[i]);
      const float scale = row_scale(gpu::block_sum<kLanes>(squares, smem));
      if (row < p_.num_rows) {
        Out* y = output(row);
        In* r = residual(row);
#pragma unroll
        for (int i = 0; i < kVecs; ++i) {
          if (!has(i)) break;
          if constexpr (!kRoom) weights[i] = gpu::Vec<Weight, kVec>::load(weight() + at(i));
          finish(x[i], weights[i], scale, inverse_scale, r + at(i), y + at(i));
        }
      }
      if constexpr (kRoom) {
        part = next;
      } else {
        part = load(row + step);
      }
    }
  }

  /// Zeros where the row has no more elements, and for rows past the last.
  __device__ Part load(int64_t row) const {
    Part part;
    const int64_t known = min(row, p_.num_rows - 1);
    const In *x = input(known), *r = residual(known);
#pragma unroll
    for (int i = 0; i < kVecs; ++i) {
      const bool there = has(i) && row < p_.num_rows;
      part.input[i] = there ? gpu::Vec<In, kVec>::load(x + at(i)) : gpu::Vec<In, kVec>::zero();
      if constexpr (kResidual) part.residual[i] = there ? gpu::Vec<In, kVec>::load(r + at(i)) : gpu::Vec<In, kVec>::zero();
    }
    return part;
  }

  /// One row a block.
  __device__ void run_twice() const {
    __shared__ gpu::BlockReduceSmem<float> smem;
    using Vec = gpu::Vec<In, kVec>;
    const float inverse_scale = this->inverse_scale();
    for (int64_t row = blockIdx.x; row < p_.num_rows; row += gridDim.x) {
      const In* in = input(row);
      In* r = residual(row);
      Out* y = output(row);
      float x[kVec], squares = 0;
#pragma unroll 4
      for (int i = 0; has(i); ++i) squares += sum_of_squares(Vec::load(in + at(i)), kResidual ? Vec::load(r + at(i)) : Vec::zero(), x);
      const float scale = row_scale(gpu::block_sum<kLanes>(squares, smem));
      if (row + gridDim.x >= p_.num_rows) gpu::ptx::griddep_launch_dependents();
#pragma unroll 2
      for (int i = 0; has(i); ++i) {
        sum_of_squares(Vec::load(in + at(i)), kResidual ? Vec::load(r + at(i)) : Vec::zero(), x);
        finish(x, gpu::Vec<Weight, kVec>::load(weight() + at(i)), scale, inverse_scale, r + at(i), y + at(i));
      }
    }
  }

  /// x = input (+ residual), in float.
  static __device__ float sum_of_squares(const gpu::Vec<In, kVec>& input, const gpu::Vec<In, kVec>& residual, float (&x)[kVec]) {
    float squares = 0;
    input.to_float(x);
    if constexpr (kResidual) {
      float added[kVec];
      residual.to_float(added);
#pragma unroll
      for (int j = 0; j < kVec; ++j) x[j] += added[j];
    }
#pragma unroll
    for (int j = 0; j < kVec; ++j) squares += x[j] * x[j];
    return squares;
  }

  __device__ float row_scale(float squares) const { return gpu::ptx::rsqrt(squares * inverse_size_ + p_.eps); }

  __device__ float inverse_scale() const {
    if constexpr (is_float8(kConfig.output)) return 1.0f / (p_.scale ? *p_.scale : p_.scale_value);
    return 1;
  }

  __device__ void finish(float (&x)[kVec], const gpu::Vec<Weight, kVec>& weights, float scale, float inverse_scale, In* residual,
                         Out* output) const {
    if constexpr (kResidual) gpu::Vec<In, kVec>::from_float(x).store_global(residual);
    float w[kVec];
    weights.to_float(w);
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      x[j] *= scale * (w[j] + p_.weight_bias);
      if constexpr (is_float8(kConfig.output)) x[j] *= inverse_scale;
    }
    gpu::Vec<Out, kVec>::from_float(x).store_global(output);
  }
};

}  // namespace flashinfer
