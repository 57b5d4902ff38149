// get_batch_indices_positions: which request each new token belongs to, and where in its sequence it stands.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/page/cpu/get_batch_indices_positions.hpp>
#include <flashinfer/page/gpu/get_batch_indices_positions.hpp>
#include <flashinfer/runtime/check_indptr.hpp>

namespace flashinfer {

/// Request r's new tokens, append_indptr[r] to append_indptr[r + 1] - 1, are the last of its seq_lens[r] tokens.
/// Entries of no request, behind append_indptr's last, become batch index -1 and position 0.
///   append_indptr  [batch_size + 1]  i32 or i64, contiguous, rising from 0
///   seq_lens       [batch_size]      i32 or i64, contiguous; the new tokens are counted
/// What these two hold is checked where the host can see it.
///   batch_indices, positions  [num_tokens]  i32, contiguous, written
inline void get_batch_indices_positions(const TensorView& append_indptr, const TensorView& seq_lens, const TensorView& batch_indices,
                                        const TensorView& positions, const Context& context = {}) {
  const Check check("get_batch_indices_positions");
  for (const auto& [name, t] : {std::pair<const char*, const TensorView&>{"append_indptr", append_indptr}, {"seq_lens", seq_lens}}) {
    check.rank(name, t, 1);
    check.dtype(name, t, {DType::i32, DType::i64});
    check.contiguous(name, t);
    check.device(name, t, context.device);
  }
  check.shape("append_indptr", append_indptr, {{"batch_size + 1", seq_lens.size(0) + 1}});
  for (const auto& [name, t] : {std::pair<const char*, const TensorView&>{"batch_indices", batch_indices}, {"positions", positions}}) {
    check.rank(name, t, 1);
    check.dtype(name, t, DType::i32);
    check.contiguous(name, t);
    check.device(name, t, context.device);
  }
  check.same_shape("positions", positions, "batch_indices", batch_indices);
  check.that(!overlap(batch_indices, positions), "positions", "memory of its own", "memory that batch_indices lies in");
  for (const auto& [name, t] : {std::pair<const char*, const TensorView&>{"batch_indices", batch_indices}, {"positions", positions}})
    check.that(!overlap(t, append_indptr) && !overlap(t, seq_lens), name, "memory of its own",
               "memory that append_indptr or seq_lens lies in");
  check_indptr(check, "append_indptr", append_indptr, context);
  look_at(append_indptr, context, [&](const auto& bound) {
    look_at(seq_lens, context, [&](const auto& seq_len) {
      for (int64_t r = 0; r < seq_lens.size(0); ++r)
        check.that(
            seq_len(r) >= bound(r + 1) - bound(r) && seq_len(r) <= INT32_MAX, "seq_lens",
            [&] { return "lengths that count the " + std::to_string(bound(r + 1) - bound(r)) + " new tokens, below 2^31"; },
            [&] { return std::to_string(seq_len(r)) + " for request " + std::to_string(r); });
    });
  });

  GetBatchIndicesPositionsParams params;
  params.append_indptr = append_indptr.data;
  params.seq_lens = seq_lens.data;
  params.batch_indices = batch_indices.as<int32_t>();
  params.positions = positions.as<int32_t>();
  params.batch_size = int32_t(seq_lens.size(0));
  params.num_tokens = batch_indices.size(0);
  if (context.device.type == DeviceType::cpu) return cpu::get_batch_indices_positions(params, append_indptr.dtype, seq_lens.dtype);
  gpu::get_batch_indices_positions(params, append_indptr.dtype, seq_lens.dtype, context);
}

}  // namespace flashinfer
