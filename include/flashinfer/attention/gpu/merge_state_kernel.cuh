// merge_state, merge_state_in_place, merge_states: the weighted sum of a row's states, and the LSE of their union.
// Called by attention/gpu/merge_state.hpp; twin of attention/cpu/merge_state.hpp.
//
// Bound by: memory: every v is read once.
// Threads:  lanes() threads of one warp share a row (token, head), a vector each, or several of wide heads.
// Memory:   of two states both vectors are in flight at once, of many up to four; s comes from L1 for all but the first lane.
// Sync:     rows in place: no lane writes s before all lanes of its warp have read it.
#pragma once

#include <flashinfer/attention/merge_state_params.hpp>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/vec.cuh>

namespace flashinfer {

template <MergeStateConfig kConfig>
struct MergeStateKernel {
  using Params = MergeStateParams;
  using T = number_t<kConfig.dtype>;
  static constexpr int kThreads = kConfig.kThreads;
  static constexpr int kMinBlocks = 8;
  static constexpr int kVec = kConfig.vec, kLanes = kConfig.lanes();
  using V = gpu::Vec<T, kVec>;

  static __device__ void run(const Params& p) {
    const int64_t row = int64_t(blockIdx.x) * (kThreads / kLanes) + int(threadIdx.x) / kLanes;
    const uint32_t token = uint32_t(row) / uint32_t(p.num_heads), head = uint32_t(row) - token * uint32_t(p.num_heads);
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();

    float lse = 0;
    const bool merges = row < int64_t(p.num_tokens) * p.num_heads && (!p.mask || p.mask[token] != 0);
    if (merges) lse = merge(p, token, head);
    __syncwarp();  // s_out may be s
    if (merges && p.s_out && threadIdx.x % kLanes == 0) p.s_out[token * p.s_out_stride_token + head * p.s_out_stride_head] = lse;
  }

 private:
  /// Sums the lane's vectors; returns the row's LSE.
  static __device__ float merge(const Params& p, int64_t token, int64_t head) {
    const int num_states = kConfig.pair ? 2 : p.num_states;
    float largest = -kInfinity, total = 0;
#pragma unroll 4
    for (int i = 0; i < num_states; ++i) largest = fmaxf(largest, state_s(p, i, token, head));
#pragma unroll 4
    for (int i = 0; i < num_states; ++i) total += weight(state_s(p, i, token, head), largest);
    const float inverse = total == 0.0f ? 0.0f : 1.0f / total;

    T* const out = static_cast<T*>(p.v_out) + token * p.v_out_stride_token + head * p.v_out_stride_head;
    for (int column = int(threadIdx.x) % kLanes * kVec; column < kConfig.head_dim; column += kLanes * kVec) {
      float sum[kVec] = {};
#pragma unroll 4
      for (int i = 0; i < num_states; ++i) {
        float v[kVec];
        V::load(state_v<T>(p, i, token, head) + column).to_float(v);
        const float w = weight(state_s(p, i, token, head), largest) * inverse;
#pragma unroll
        for (int j = 0; j < kVec; ++j) sum[j] = w == 0.0f ? sum[j] : sum[j] + w * v[j];  // an empty state's v may be anything
      }
      V::from_float(sum).store_global(out + column);
    }
    return total == 0.0f ? -kInfinity : gpu::ptx::lg2(total) + largest;
  }

  static __device__ float weight(float s, float largest) { return s == -kInfinity ? 0.0f : gpu::ptx::ex2(s - largest); }
};

}  // namespace flashinfer
