// The gated activations: silu, gelu and tanh-approximated gelu of the gate, times up.
// Called by activation/gpu/act_and_mul.hpp; twin of activation/cpu/act_and_mul.hpp.
//
// Bound by: memory: two elements read and one written; silu takes two MUFU instructions an element, half of what would show.
// Threads:  a block makes a piece of a row, `vecs` vectors a thread, apart by the block so that a warp's accesses adjoin.
// Memory:   all loads of a thread are issued before its first result.
// Sync:     none.
#pragma once

#include <flashinfer/activation/act_and_mul_params.hpp>
#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/vec.cuh>

namespace flashinfer {

template <ActAndMulConfig kConfig>
struct ActAndMulKernel {
  using Params = ActAndMulParams;
  static constexpr int kThreads = kConfig.threads;
  static constexpr int kMinBlocks = 1024 / kThreads;

  static __device__ void run(const Params& p) {
    gpu::ptx::griddep_wait();
    constexpr int64_t kPiece = int64_t(kThreads) * kVecs * kVec;
    const int64_t pieces = ceil_div(p.dim, kPiece);
    for (int64_t i = blockIdx.x; i < p.num_rows * pieces; i += gridDim.x) {
      // Pieces have 64 elements or more: 2^32 of them fill no memory, and a 64-bit division would cost as much as the activation.
      const int64_t row = uint32_t(i) / uint32_t(pieces);
      const int64_t first = (i - row * pieces) * kPiece + int64_t(threadIdx.x) * kVec;
      make(static_cast<const T*>(p.input) + p.input_rows.offset(row), static_cast<T*>(p.output) + p.output_rows.offset(row), first, p.dim);
    }
    gpu::ptx::griddep_launch_dependents();
  }

 private:
  using T = number_t<kConfig.dtype>;
  static constexpr int kVec = kConfig.vec, kVecs = kConfig.vecs;

  static __device__ void make(const T* input, T* output, int64_t first, int64_t dim) {
    gpu::Vec<T, kVec> gate[kVecs], up[kVecs];
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
      const int64_t at = first + v * kThreads * kVec;
      if (at >= dim) continue;
      gate[v] = gpu::Vec<T, kVec>::load(input + at);
      up[v] = gpu::Vec<T, kVec>::load(input + dim + at);
    }
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
      const int64_t at = first + v * kThreads * kVec;
      if (at >= dim) continue;
      float x[kVec], factor[kVec];
      gate[v].to_float(x);
      up[v].to_float(factor);
#pragma unroll
      for (int j = 0; j < kVec; ++j) x[j] = activate(x[j]) * factor[j];
      gpu::Vec<T, kVec>::from_float(x).store_global(output + at);
    }
  }

  static __device__ float activate(float x) {
    if constexpr (kConfig.activation == Activation::silu) return x * sigmoid(x);
    if constexpr (kConfig.activation == Activation::gelu) return 0.5f * x * (1.0f + erff(0.70710678f * x));
    if constexpr (kConfig.activation == Activation::gelu_tanh) return x * sigmoid(kGeluTanh * (x + kGeluTanhCubic * x * x * x));
  }
  static __device__ float sigmoid(float x) { return gpu::ptx::rcp(1.0f + gpu::ptx::ex2(-kLog2e * x)); }
};

}  // namespace flashinfer
