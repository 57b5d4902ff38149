// Host only. The lengths of a batch as the caller holds them: on the host, where they are read and checked, or on the device,
// where only the device planner reads them.
#pragma once

#include <cstring>
#include <vector>

#include <flashinfer/attention/attention_check.hpp>

namespace flashinfer {

/// An array that is not given leaves its length uniform. Host arrays may be i32 or i64, device arrays are i32.
struct AttentionLengths {
  TensorView qo_indptr;      // [batch_size + 1] query tokens
  TensorView kv_indptr;      // [batch_size + 1] pages, or key tokens when ragged
  TensorView kv_indices;     // [num_indices] pages; paged only
  TensorView last_page_len;  // [batch_size] tokens in a request's last page: 1 to page_size, anything where it has no page; paged only
  int32_t batch_size = 1;    // read only where neither indptr is given
  int32_t uniform_qo_len = 1;
  int32_t uniform_kv_len = 0;  // ragged only
};

/// Lengths in host memory as i32, checked.
struct HostLengths {
  std::vector<int32_t> qo_indptr, kv_indptr, last_page_len;
  std::vector<int32_t> converted_indices;  // where the caller's are not i32, one after another
  const int32_t* kv_indices = nullptr;     // [num_indices], the caller's or the converted ones
  std::vector<int64_t> mask_elements;      // [batch_size + 1] elements of an unpacked custom mask
  std::vector<int32_t> mask_indptr;        // [batch_size + 1] bytes of the packed one
  int32_t max_qo_len = 0;
  int32_t max_page = -1;  // the largest of kv_indices in use
};

namespace detail {

inline void check_indices(const Check& check, const char* argument, const TensorView& t, int64_t count, const char* count_name,
                          Device device) {
  if (count >= 0)
    check.shape(argument, t, {{count_name, count}});
  else
    check.rank(argument, t, 1);
  if (t.is_cpu()) {
    check.dtype(argument, t, {DType::i32, DType::i64});
  } else {
    check.dtype(argument, t, DType::i32);
    check.device(argument, t, device);
    check.contiguous(argument, t);
  }
}

inline void read_indices(const Check& check, const char* argument, const TensorView& t, std::vector<int32_t>& out) {
  const int64_t n = t.size(0), stride = t.stride(0);
  if (t.dtype == DType::i32 && stride == 1) return out.assign(t.as<const int32_t>(), t.as<const int32_t>() + n);
  out.resize(size_t(n));
  if (t.dtype == DType::i32) {
    for (int64_t i = 0; i < n; ++i) out[size_t(i)] = t.as<int32_t>()[i * stride];
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t value = t.as<int64_t>()[i * stride];
    check.that(value >= INT32_MIN && value <= INT32_MAX, argument, "entries that fit 32 bits", [&] { return std::to_string(value); });
    out[size_t(i)] = int32_t(value);
  }
}

inline void check_indptr(const Check& check, const char* argument, const std::vector<int32_t>& indptr) {
  check.that(indptr[0] == 0, argument, "a first entry of 0", [&] { return std::to_string(indptr[0]); });
  int32_t falls = 0;  // a loop that becomes vectors; where an entry falls is looked for afterwards
  for (size_t i = 1; i < indptr.size(); ++i) falls |= indptr[i] < indptr[i - 1];
  for (size_t i = 1; falls && i < indptr.size(); ++i)
    check.that(indptr[i] >= indptr[i - 1], argument, "entries that never fall",
               [&] { return std::to_string(indptr[i]) + " after " + std::to_string(indptr[i - 1]) + " at " + std::to_string(i); });
}

/// Of a request that has pages. What the others have does not matter.
inline void check_last_page_len(const Check& check, int32_t page_size, const std::vector<int32_t>& kv_indptr,
                                const std::vector<int32_t>& last_page_len) {
  const int32_t *const indptr = kv_indptr.data(), *const last_page = last_page_len.data();
  const size_t batch_size = last_page_len.size();
  int32_t odd = 0, most_pages = 0;  // vectors again
  for (size_t r = 0; r < batch_size; ++r) {
    const int32_t pages = indptr[r + 1] - indptr[r];
    odd |= (pages > 0) & ((last_page[r] < 1) | (last_page[r] > page_size));
    most_pages = max(most_pages, pages);
  }
  if (!odd && int64_t(most_pages) * page_size <= INT32_MAX) [[likely]]
    return;
  for (size_t r = 0; r < batch_size; ++r) {
    const int64_t pages = indptr[r + 1] - indptr[r];
    if (pages == 0) continue;
    const int32_t last = last_page[r];
    check.that(
        last >= 1 && last <= page_size, "last_page_len", [&] { return "1 to page_size=" + std::to_string(page_size); },
        [&] { return std::to_string(last) + " for request " + std::to_string(r); });
    check.that((pages - 1) * page_size + last <= INT32_MAX, "kv_indptr", "requests of fewer than 2^31 tokens",
               [&] { return std::to_string(pages) + " pages of " + std::to_string(page_size) + " for request " + std::to_string(r); });
  }
}

}  // namespace detail

inline int32_t kv_len_of(const HostLengths& host, const AttentionProblem& p, const AttentionLengths& lengths, int32_t r) {
  if (host.kv_indptr.empty()) return lengths.uniform_kv_len;
  const int32_t n = host.kv_indptr[r + 1] - host.kv_indptr[r];
  return p.page_size == 0 || n == 0 ? n : (n - 1) * p.page_size + host.last_page_len[r];
}

/// Shapes, dtypes and devices. Returns the batch size.
inline int32_t check_lengths(const Check& check, const AttentionProblem& p, const AttentionLengths& lengths, Device device) {
  const bool paged = p.page_size > 0;
  int64_t batch_size = lengths.batch_size;
  const auto indptr = [&](const char* argument, const TensorView& t) {
    check.rank(argument, t, 1);
    check.that(t.size(0) >= 1, argument, "batch_size + 1 entries", "none");
    batch_size = t.size(0) - 1;
  };
  if (lengths.qo_indptr)
    indptr("qo_indptr", lengths.qo_indptr);
  else if (lengths.kv_indptr)
    indptr("kv_indptr", lengths.kv_indptr);
  check.that(batch_size >= 0 && batch_size < INT32_MAX, "batch_size", "a number of requests", [&] { return std::to_string(batch_size); });
  if (lengths.qo_indptr)
    detail::check_indices(check, "qo_indptr", lengths.qo_indptr, batch_size + 1, "batch_size + 1", device);
  else
    check.that(lengths.uniform_qo_len >= 1, "uniform_qo_len", "at least 1", [&] { return std::to_string(lengths.uniform_qo_len); });
  if (lengths.kv_indptr) detail::check_indices(check, "kv_indptr", lengths.kv_indptr, batch_size + 1, "batch_size + 1", device);
  if (paged) {
    check.that(bool(lengths.kv_indptr), "kv_indptr", "the pages of each request", "none");
    check.that(bool(lengths.kv_indices), "kv_indices", "the pages of each request", "none");
    check.that(bool(lengths.last_page_len), "last_page_len", "the tokens in each request's last page", "none");
    detail::check_indices(check, "kv_indices", lengths.kv_indices, -1, "num_indices", device);
    detail::check_indices(check, "last_page_len", lengths.last_page_len, batch_size, "batch_size", device);
    check.that(lengths.kv_indices.size(0) <= INT32_MAX, "kv_indices", "fewer than 2^31 entries",
               [&] { return shape_of(lengths.kv_indices); });
  } else if (!lengths.kv_indptr) {
    check.that(lengths.uniform_kv_len >= 0, "uniform_kv_len", "0 or more", [&] { return std::to_string(lengths.uniform_kv_len); });
  }
  return int32_t(batch_size);
}

/// Reads and checks what lies on the host. `all`: every length array does, so that lengths can be compared.
inline void read_lengths(const Check& check, const AttentionProblem& p, const AttentionLengths& lengths, int32_t batch_size, bool all,
                         HostLengths& host) {
  using namespace detail;
  host.qo_indptr.clear(), host.kv_indptr.clear(), host.last_page_len.clear(), host.kv_indices = nullptr;
  host.mask_elements.clear(), host.mask_indptr.clear();
  host.max_qo_len = lengths.qo_indptr ? 0 : lengths.uniform_qo_len;
  host.max_page = -1;
  const auto here = [](const TensorView& t) { return t && t.is_cpu(); };
  if (here(lengths.qo_indptr)) {
    read_indices(check, "qo_indptr", lengths.qo_indptr, host.qo_indptr);
    check_indptr(check, "qo_indptr", host.qo_indptr);
    for (int32_t r = 0; r < batch_size; ++r) host.max_qo_len = max(host.max_qo_len, host.qo_indptr[r + 1] - host.qo_indptr[r]);
  }
  if (here(lengths.kv_indptr)) {
    read_indices(check, "kv_indptr", lengths.kv_indptr, host.kv_indptr);
    check_indptr(check, "kv_indptr", host.kv_indptr);
    if (p.page_size)
      check.that(
          host.kv_indptr.back() <= lengths.kv_indices.size(0), "kv_indptr",
          [&] { return "a last entry of at most len(kv_indices)=" + std::to_string(lengths.kv_indices.size(0)); },
          [&] { return std::to_string(host.kv_indptr.back()); });
  }
  if (here(lengths.last_page_len)) {
    read_indices(check, "last_page_len", lengths.last_page_len, host.last_page_len);
    if (all) check_last_page_len(check, p.page_size, host.kv_indptr, host.last_page_len);
  }
  if (here(lengths.kv_indices)) {
    const TensorView& t = lengths.kv_indices;
    if (t.dtype == DType::i32 && t.is_contiguous()) {
      host.kv_indices = t.as<const int32_t>();
    } else {
      read_indices(check, "kv_indices", t, host.converted_indices);
      host.kv_indices = host.converted_indices.data();
    }
    const int64_t used = host.kv_indptr.empty() ? 0 : host.kv_indptr.back();
    int32_t least = 0, most = -1;  // a loop that becomes vectors: there may be a million
    for (const int32_t *page = host.kv_indices, *end = page + used; page < end; ++page) least = min(least, *page), most = max(most, *page);
    check.that(least >= 0, "kv_indices", "page ids of 0 or more", [&] { return std::to_string(least); });
    host.max_page = most;
  }
  if (p.flags.custom_mask && all) {
    host.mask_elements.assign(1, 0), host.mask_indptr.assign(1, 0);
    for (int32_t r = 0; r < batch_size; ++r) {
      const int64_t qo_len = host.qo_indptr.empty() ? lengths.uniform_qo_len : host.qo_indptr[r + 1] - host.qo_indptr[r];
      const int64_t bits = qo_len * kv_len_of(host, p, lengths, r);
      const int64_t bytes = host.mask_indptr.back() + ceil_div(bits, int64_t(8));
      check.that(bytes <= INT32_MAX, "custom_mask", "fewer than 2^31 bytes when packed", [&] { return std::to_string(bytes); });
      host.mask_elements.push_back(host.mask_elements.back() + bits);
      host.mask_indptr.push_back(int32_t(bytes));
    }
  }
}

}  // namespace flashinfer
