// Host only. get_seq_lens has nothing to tune but the type of its indices.
#pragma once

#include <flashinfer/page/get_seq_lens_params.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer::gpu {

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_get_seq_lens(Arch, Visit&& visit) {
  for (DType index : {DType::i32, DType::i64}) visit(GetSeqLensConfig{index, index});
}

}  // namespace flashinfer::gpu
