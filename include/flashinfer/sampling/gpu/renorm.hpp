// Host only. Launches the kernels of renorm.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/sampling/renorm_params.hpp>

namespace flashinfer::gpu {

inline void renorm(const RenormParams&, RowValues, DType, DType, const Context&) {
  throw Unsupported("renorm: there is no kernel for GPUs yet");
}

}  // namespace flashinfer::gpu
