// Host only. Launches the kernels of sampling.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer::gpu {

inline void sampling(const SamplingParams&, RowValues, DType, const Context&) {
  throw Unsupported("sampling: there is no kernel for GPUs yet");
}

}  // namespace flashinfer::gpu
