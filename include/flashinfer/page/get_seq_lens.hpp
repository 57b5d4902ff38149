// get_seq_lens: tokens of each request in a paged KV cache.
#pragma once

#include <flashinfer/core/check.hpp>
#include <flashinfer/page/cpu/get_seq_lens.hpp>
#include <flashinfer/page/gpu/get_seq_lens.hpp>
#include <flashinfer/runtime/check_indptr.hpp>

namespace flashinfer {

/// seq_lens[r] = max(kv_indptr[r + 1] - kv_indptr[r] - 1, 0) * page_size + kv_last_page_len[r]
///   kv_indptr [batch_size + 1], kv_last_page_len [batch_size], seq_lens [batch_size]   i32 or i64, the last two alike, contiguous
/// kv_indptr rises from 0, which is checked where the host can see it.
/// seq_lens may be kv_last_page_len itself.
inline void get_seq_lens(const TensorView& kv_indptr, const TensorView& kv_last_page_len, int64_t page_size, const TensorView& seq_lens,
                         const Context& context = {}) {
  const Check check("get_seq_lens");
  check.rank("kv_indptr", kv_indptr, 1);
  check.rank("kv_last_page_len", kv_last_page_len, 1);
  check.dtype("kv_indptr", kv_indptr, {DType::i32, DType::i64});
  check.dtype("kv_last_page_len", kv_last_page_len, {DType::i32, DType::i64});
  check.shape("kv_indptr", kv_indptr, {{"batch_size + 1", kv_last_page_len.size(0) + 1}});
  check.shape("seq_lens", seq_lens, {{"batch_size", kv_last_page_len.size(0)}});
  for (const auto& [name, t] : {std::pair<const char*, const TensorView&>{"kv_indptr", kv_indptr},
                                {"kv_last_page_len", kv_last_page_len},
                                {"seq_lens", seq_lens}}) {
    if (&t != &kv_indptr) check.dtype(name, t, kv_last_page_len.dtype);
    check.contiguous(name, t);
    check.device(name, t, context.device);
  }
  check.in_range("page_size", page_size, int64_t(1), int64_t(INT32_MAX));
  check.that(!overlap(kv_indptr, seq_lens), "seq_lens", "memory of its own", "memory that kv_indptr lies in");
  check_indptr(check, "kv_indptr", kv_indptr, context);

  const GetSeqLensParams params{kv_indptr.data, kv_last_page_len.data, seq_lens.data, kv_last_page_len.size(0), int32_t(page_size)};
  const GetSeqLensConfig config{kv_indptr.dtype, kv_last_page_len.dtype};
  if (context.device.type == DeviceType::cpu) return cpu::get_seq_lens(params, config);
  gpu::get_seq_lens(params, config, context);
}

}  // namespace flashinfer
