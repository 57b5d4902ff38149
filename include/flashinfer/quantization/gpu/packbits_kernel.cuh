// packbits and segment_packbits: eight booleans a thread and step become one byte.
// Called by gpu/packbits.hpp; twin of cpu/packbits.hpp.
//
// Bound by: memory, 9 bytes moved a byte made.
// Threads:  one-dimensional blocks; segments: grid.x counts segments, grid.y the blocks of one segment.
// Memory:   8-byte loads where a segment starts on an 8-byte boundary, else byte loads, which the L1 cache gathers.
// Sync:     segments only: one block-wide sum of the packed lengths before the block's own segment.
#pragma once

#include <flashinfer/gpu/block_reduce.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/quantization/packbits_params.hpp>

namespace flashinfer {

template <PackbitsConfig kConfig>
struct PackbitsKernel {
  using Params = PackbitsParams;
  using Index = conditional_t<kConfig.indptr == DType::i64, int64_t, int32_t>;
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  static __device__ void run(const Params& p) {
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    if constexpr (kConfig.segments) {
      run_segment(p);
    } else {
      pack(p.input, p.num_bits, p.output, p.output_size, blockIdx.x, gridDim.x);
    }
  }

 private:
  /// Every block sums the packed lengths before its segment itself: the indptr lies in L2, and no second launch is needed.
  static __device__ void run_segment(const Params& p) {
    __shared__ gpu::BlockReduceSmem<int64_t> smem;
    const auto* indptr = static_cast<const Index*>(p.indptr);
    const int segment = int(blockIdx.x);
    int64_t start = 0;
    for (int s = int(threadIdx.x); s < min(segment, p.num_segments); s += kThreads) start += packed_size(length(p, indptr, s));
    start = gpu::block_reduce<kThreads>(start, gpu::Sum{}, smem);
    if (blockIdx.y == 0 && threadIdx.x == 0) p.packed_indptr[segment] = int32_t(start);
    if (segment >= p.num_segments) return;  // there are none
    const int64_t num_bits = length(p, indptr, segment);
    const int64_t size = packed_size(num_bits);
    if (blockIdx.y == 0 && threadIdx.x == 0 && segment == p.num_segments - 1) p.packed_indptr[p.num_segments] = int32_t(start + size);
    const int64_t room = max(p.output_size - start, int64_t(0));
    pack(p.input + clamp(int64_t(indptr[segment]), int64_t(0), p.num_bits), num_bits, p.output + start, min(size, room), blockIdx.y,
         gridDim.y);
  }

  /// A segment's booleans, counting only those that the input has.
  static __device__ int64_t length(const Params& p, const Index* indptr, int s) {
    const int64_t begin = clamp(int64_t(indptr[s]), int64_t(0), p.num_bits);
    return clamp(int64_t(indptr[s + 1]), begin, p.num_bits) - begin;
  }

  static __device__ void pack(const uint8_t* input, int64_t num_bits, uint8_t* output, int64_t size, uint32_t block, uint32_t num_blocks) {
    const int64_t first = int64_t(block) * kThreads + threadIdx.x, step = int64_t(num_blocks) * kThreads;
    const int64_t whole = uintptr_t(input) % 8 == 0 ? min(size, num_bits / 8) : 0;
#pragma unroll 4
    for (int64_t i = first; i < whole; i += step) output[i] = pack8<kConfig.order>(*reinterpret_cast<const uint64_t*>(input + 8 * i));
#pragma unroll 1
    for (int64_t i = whole + first; i < size; i += step) {
      uint64_t booleans = 0;
      for (int j = 0; j < 8; ++j)
        if (8 * i + j < num_bits) booleans |= uint64_t(input[8 * i + j]) << 8 * j;
      output[i] = pack8<kConfig.order>(booleans);
    }
  }
};

}  // namespace flashinfer
