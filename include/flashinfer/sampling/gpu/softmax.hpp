// Host only. Launches the kernels of softmax.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/softmax_params.hpp>

namespace flashinfer::gpu {

inline void softmax(const SoftmaxParams&, DType, const Context&) { throw Unsupported("softmax: there is no kernel for GPUs yet"); }

}  // namespace flashinfer::gpu
