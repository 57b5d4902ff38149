// Host only. get_batch_indices_positions has nothing to tune but the types of its indices.
#pragma once

#include <flashinfer/page/get_batch_indices_positions_params.hpp>
#include <flashinfer/runtime/device.hpp>

namespace flashinfer::gpu {

/// What a kernel is likely to be asked for: precompiled without a GPU.
template <class Visit>
constexpr void for_each_tuned_get_batch_indices_positions(Arch, Visit&& visit) {
  for (DType append_indptr : {DType::i32, DType::i64})
    for (DType seq_lens : {DType::i32, DType::i64}) visit(GetBatchIndicesPositionsConfig{append_indptr, seq_lens});
}

}  // namespace flashinfer::gpu
