// Host only. Launches the kernels of speculative.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/speculative_params.hpp>

namespace flashinfer::gpu {

inline void chain_speculative_sampling(const SpeculativeParams&, const Context&) {
  throw Unsupported("speculative: there is no kernel for GPUs yet");
}

}  // namespace flashinfer::gpu
