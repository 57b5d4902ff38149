// Host only. append_paged_kv_cache on a GPU: one launch for keys and values.
#pragma once

#include <flashinfer/page/gpu/append_paged_kv_cache_tuning.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

inline void append_paged_kv_cache(const AppendPagedKvCacheParams& params, const AppendPagedKvCacheProblem& problem,
                                  const Context& context) {
  const AppendPagedKvCacheConfig config = tune(problem, context.kernels->device_info(context.device.index));
  const int64_t row_vecs = max(config.k_bytes, config.v_bytes) / config.vec_bytes;
  LaunchShape shape;
  shape.grid = {uint32_t(ceil_div(params.num_tokens, config.kTokens)),
                uint32_t(ceil_div(params.num_heads * row_vecs, int64_t(config.kVecs))), 2};
  shape.block = {uint32_t(config.kTokens * 32)};
  shape.pdl = context.pdl;
  launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
