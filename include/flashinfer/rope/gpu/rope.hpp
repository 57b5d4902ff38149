// Host only. RoPE on a GPU: one launch for q and k.
#pragma once

#include <flashinfer/rope/gpu/rope_tuning.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::gpu {

/// The widest vector, of at most 16 bytes, that starts at every multiple of itself in every row that the kernel touches.
inline int rope_vector(const RopeProblem& problem, const RopeParams& p) {
  const auto fits = [](int64_t bytes, int64_t element, const void* data, int64_t stride_a, int64_t stride_b) {
    return (int64_t(uintptr_t(data)) | stride_a * element | stride_b * element) % bytes == 0;
  };
  const int64_t element = size_of(problem.dtype), half = problem.rotary_dim / 2, rest = problem.head_dim - problem.rotary_dim;
  for (int vec = int(16 / element);; vec /= 2) {
    const int64_t bytes = vec * element;
    const auto tensor_fits = [&](const RopeTensor& x) {
      return fits(bytes, element, x.in, x.in_stride_token, x.in_stride_head) && fits(bytes, element, x.out, x.out_stride_token, x.out_stride_head);
    };
    bool all = half % vec == 0 && rest % vec == 0 && tensor_fits(p.q) && tensor_fits(p.k);
    if (problem.angle == RopeAngle::cache) {
      const int64_t cache_element = size_of(problem.cache);
      all = all && fits(min(vec * cache_element, int64_t(16)), cache_element, p.cache, p.cache_stride, half);
    }
    if (all || vec == 1) return vec;
  }
}

inline void rope(RopeProblem problem, const RopeFrequencyParams& params, const Context& context) {
  problem.num_tokens = params.num_tokens;
  problem.vec = rope_vector(problem, params);
  const RopeConfig config = tune(problem, context.kernels->device_info(context.device.index).arch);
  LaunchShape shape;
  shape.grid = {uint32_t(ceil_div(params.num_tokens, config.tokens))};
  shape.block = {uint32_t(config.threads_per_head() * config.heads() * config.tokens)};
  shape.pdl = context.pdl;
  if (params.q.num_heads + params.k.num_heads == 0) return;
  if (config.angle == RopeAngle::cache) launch(config, shape, static_cast<const RopeParams&>(params), context);
  else launch(config, shape, params, context);
}

}  // namespace flashinfer::gpu
