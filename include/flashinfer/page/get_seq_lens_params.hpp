// What both back ends share of get_seq_lens.
#pragma once

#include <flashinfer/core/dtype.hpp>
#include <flashinfer/core/math.hpp>

namespace flashinfer {

struct GetSeqLensParams {
  const void* kv_indptr = nullptr;         // [batch_size + 1]
  const void* kv_last_page_len = nullptr;  // [batch_size]
  void* seq_lens = nullptr;                // [batch_size]
  int64_t batch_size = 0;
  int32_t page_size = 0;
};

template <class Index, class Length>
FLASHINFER_HOST_DEVICE void write_seq_len(const GetSeqLensParams& p, int64_t request) {
  const Index* indptr = static_cast<const Index*>(p.kv_indptr);
  const int64_t full_pages = max(int64_t(indptr[request + 1]) - int64_t(indptr[request]) - 1, int64_t(0));
  static_cast<Length*>(p.seq_lens)[request] = Length(full_pages * p.page_size + static_cast<const Length*>(p.kv_last_page_len)[request]);
}

struct GetSeqLensConfig {
  DType indptr = DType::i32, length = DType::i32;

  static constexpr const char* kName = "GetSeqLensConfig";
  static constexpr const char* kKernel = "GetSeqLensKernel";
  static constexpr const char* kHeader = "page/gpu/get_seq_lens_kernel.cuh";
  template <class F>
  FLASHINFER_HOST_DEVICE constexpr void for_each_field(F&& f) const {
    f("indptr", indptr), f("length", length);
  }
  static constexpr int kThreads = 128;
};

}  // namespace flashinfer
