// Host only. The kernel of append_paged_kv_cache depends on the sizes of rows alone.
#pragma once

#include <flashinfer/page/append_paged_kv_cache_params.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer::gpu {

struct AppendPagedKvCacheProblem {
  int k_bytes = 256, v_bytes = 256;
  int vec_bytes = 16;  // that every row can be loaded and stored by
};

constexpr AppendPagedKvCacheConfig tune(const AppendPagedKvCacheProblem& problem, const DeviceInfo&) {
  return {.k_bytes = problem.k_bytes, .v_bytes = problem.v_bytes, .vec_bytes = problem.vec_bytes};
}

/// What a kernel is likely to be asked for: precompiled without a GPU. Heads of 64, 128 and 256 elements, latents, and odd rows.
template <class Visit>
constexpr void for_each_tuned_append_paged_kv_cache(Arch arch, Visit&& visit) {
  const DeviceInfo device = device_info_of(arch);
  for (int bytes : {64, 128, 256, 512}) visit(tune(AppendPagedKvCacheProblem{bytes, bytes, 16}, device));
  visit(tune(AppendPagedKvCacheProblem{1024, 128, 16}, device));
  visit(tune(AppendPagedKvCacheProblem{512, 64, 16}, device));
  visit(tune(AppendPagedKvCacheProblem{72, 40, 8}, device));
  visit(tune(AppendPagedKvCacheProblem{7, 3, 1}, device));
}

}  // namespace flashinfer::gpu
