// Host only. How a RoPE kernel cuts its work.
#pragma once

#include <flashinfer/rope/rope_params.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer::gpu {

struct RopeProblem {
  DType dtype = DType::bf16;
  int head_dim = 128, rotary_dim = 128;
  bool interleave = false;
  RopeAngle angle = RopeAngle::positions;
  DType index = DType::i32, cache = DType::f32;
  int64_t num_tokens = 1;
  int vec = 8;  // elements that every head's halves and its rest can be loaded by
};

constexpr RopeConfig tune(const RopeProblem& problem, const DeviceInfo&) {
  // A token a block while there are few, for the most threads; then four, so that a thread visits several heads and the sines
  // cost less than the memory takes.
  const int tokens = problem.num_tokens <= 256 ? 1 : 4;
  const bool cached = problem.angle == RopeAngle::cache;
  RopeConfig config{.dtype = problem.dtype,
                    .head_dim = problem.head_dim,
                    .rotary_dim = problem.rotary_dim,
                    .vec = problem.vec,
                    .interleave = problem.interleave,
                    .angle = problem.angle,
                    .index = problem.index,
                    .cache = cached ? problem.cache : DType::f32,
                    .tokens = 1};
  if (config.threads_per_head() * tokens <= 256) config.tokens = tokens;
  return config;
}

/// What a kernel is likely to be asked for: precompiled without a GPU. Then one of each odd kind.
template <class Visit>
constexpr void for_each_tuned_rope(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (DType dtype : {DType::bf16, DType::f16})
    for (RopeAngle angle : {RopeAngle::offsets, RopeAngle::positions, RopeAngle::cache})
      for (int head_dim : {64, 128})
        for (DType index : {DType::i32, DType::i64})
          for (int64_t num_tokens : {1, 4096})
            visit(tune(RopeProblem{dtype, head_dim, head_dim, false, angle, index, DType::f32, num_tokens, 8}, device));
  visit(tune(RopeProblem{DType::bf16, 64, 64, true, RopeAngle::positions, DType::i32, DType::f32, 4096, 8}, device));
  visit(tune(RopeProblem{DType::bf16, 576, 64, true, RopeAngle::cache, DType::i64, DType::bf16, 4096, 8}, device));
  visit(tune(RopeProblem{DType::f16, 512, 512, false, RopeAngle::cache, DType::i32, DType::f16, 4096, 1}, device));
  visit(tune(RopeProblem{DType::f32, 128, 64, false, RopeAngle::positions, DType::i64, DType::f32, 4096, 4}, device));
  visit(tune(RopeProblem{DType::f32, 7, 6, true, RopeAngle::offsets, DType::i64, DType::f32, 4096, 1}, device));
}

}  // namespace flashinfer::gpu
