// append_paged_kv_cache: rows of new keys and values go to their pages.
// Called by gpu/append_paged_kv_cache.hpp; twin of cpu/append_paged_kv_cache.hpp.
//
// Bound by: memory; for few tokens by the latency of the walk positions -> kv_indptr -> kv_indices -> store.
// Threads:  a warp copies up to kVecs vectors of one token's keys (grid.z 0) or values (1); grid.y cuts a token's heads.
// Memory:   the rows' loads are issued first and fly while the slot is looked up.
// Sync:     none.
#pragma once

#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/vec.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>
#include <flashinfer/page/append_paged_kv_cache_params.hpp>

namespace flashinfer {

template <AppendPagedKvCacheConfig kConfig>
struct AppendPagedKvCacheKernel {
  using Params = AppendPagedKvCacheParams;
  using Bytes = gpu::Vec<char, kConfig.vec_bytes>;
  static constexpr int kThreads = kConfig.kTokens * gpu::kWarpSize;
  static constexpr int kMinBlocks = 8;

  static __device__ void run(const Params& p) {
    const int64_t token = int64_t(blockIdx.x) * kConfig.kTokens + int(threadIdx.x) / gpu::kWarpSize;
    gpu::ptx::griddep_wait();
    gpu::ptx::griddep_launch_dependents();
    if (token >= p.num_tokens) return;
    if (blockIdx.z == 0) {
      append<kConfig.k_bytes>(p, p.k, token);
    } else {
      append<kConfig.v_bytes>(p, p.v, token);
    }
  }

 private:
  template <int kRowBytes>
  static __device__ void append(const Params& p, const AppendedRows& x, int64_t token) {
    constexpr int kRowVecs = kRowBytes / kConfig.vec_bytes, kLoads = kConfig.kVecs / gpu::kWarpSize;
    static_assert(kRowVecs * kConfig.vec_bytes == kRowBytes, "vec_bytes divides a row");
    const int first = int(blockIdx.y) * kConfig.kVecs + int(threadIdx.x) % gpu::kWarpSize, end = p.num_heads * kRowVecs;
    Bytes vecs[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = first + i * gpu::kWarpSize, head = at / kRowVecs, column = at % kRowVecs;
      if (at < end) vecs[i] = Bytes::load(x.rows + token * x.row_stride_token + head * x.row_stride_head + column * kConfig.vec_bytes);
    }
    const PageSlot slot = page_slot(p, token);
    if (!slot.exists || uint32_t(slot.page) >= uint32_t(p.num_pages)) return;
    char* const row = x.pages + slot.page * x.page_stride + slot.row * x.page_stride_token;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = first + i * gpu::kWarpSize, head = at / kRowVecs, column = at % kRowVecs;
      if (at < end) vecs[i].store_global(row + head * x.page_stride_head + column * kConfig.vec_bytes);
    }
  }
};

}  // namespace flashinfer
