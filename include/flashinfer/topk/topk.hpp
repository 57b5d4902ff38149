// Top-k selection: values and indices of each row's largest elements, or their places in a paged or ragged KV cache.
//
// The order is total (core/row_order.hpp): larger values first, equal ones by index, lower first unless TieBreak::large is asked for;
// +0 and -0 are equal; NaN comes behind -inf. So what is chosen, and where it is written, is the same in every run, on every device and
// in every batch. Chosen elements are written in the order of their indices, by top_k() in that of their values where it
// sorts_anyway() or `sorted` is asked for. A row of fewer than k elements gives them all, then -1.
#pragma once

#include <vector>

#include <flashinfer/core/check.hpp>
#include <flashinfer/runtime/kernel_source.hpp>
#include <flashinfer/topk/cpu/topk.hpp>
#include <flashinfer/topk/gpu/topk.hpp>

namespace flashinfer {

namespace detail {

/// The checks of one call, which fill in its params.
struct TopkCall {
  Check check;
  const Context& context;
  TopkParams p;
  DType input;

  TopkCall(const char* op, const char* name, const TensorView& x, const char* k_name, int64_t k, TieBreak tie_break, const Context& context)
      : check(op), context(context), input(x.dtype) {
    check.rank(name, x, 2);
    check.dtype(name, x, {DType::f32, DType::f16, DType::bf16});
    check.inner_stride(name, x);
    check.device(name, x, context.device);
    check.in_range(name, x.size(1), int64_t(0), int64_t(INT32_MAX - (1 << 20)));
    check.in_range(name, x.size(0), int64_t(0), int64_t(INT32_MAX / 8));
    check.in_range(k_name, k, int64_t(1), int64_t(INT32_MAX - (1 << 20)));
    p.input = x.data;
    p.row_stride = x.stride(0);
    p.num_rows = x.size(0);
    p.width = int32_t(x.size(1));
    p.k = int32_t(k);
    p.tie_break = tie_break;
  }
  /// An array of int32 that every row, or every group of rows, has an entry of. Null if there is none.
  const int32_t* array(const char* name, const TensorView& t, const char* extent, int64_t count) const {
    if (!t) return nullptr;
    check.shape(name, t, {{extent, count}});
    check.dtype(name, t, DType::i32);
    check.contiguous(name, t);
    check.device(name, t, context.device);
    return t.as<const int32_t>();
  }
  void* output(const char* name, const TensorView& t, DType dtype, std::initializer_list<const TensorView*> inputs) const {
    if (!t) return nullptr;
    check.shape(name, t, {{"num_rows", p.num_rows}, {"k", p.k}});
    check.dtype(name, t, dtype);
    check.contiguous(name, t);
    check.device(name, t, context.device);
    for (const TensorView* other : inputs)
      check.that(!*other || !overlap(t, *other), name, "memory of its own", "memory that another argument lies in");
    return t.data;
  }
  /// Entries of a device array only under FLASHINFER_VALIDATE=1; kernels clamp what they read.
  void entries(const char* name, const int32_t* array, int64_t last) const {
    std::vector<int32_t> copy;
    if (!array || (context.device.type != DeviceType::cpu && !context.validate)) return;
    if (context.device.type != DeviceType::cpu) {
      copy.resize(size_t(p.num_rows));
      context.kernels->copy_to_host(copy.data(), array, copy.size() * sizeof(int32_t), context);
      array = copy.data();
    }
    for (int64_t i = 0; i < p.num_rows; ++i)
      check.that(
          array[i] >= 0 && array[i] <= last, name, [&] { return "entries from 0 to " + std::to_string(last); },
          [&] { return std::to_string(array[i]) + " at " + std::to_string(i); });
  }
  void run() const {
    if (p.num_rows == 0) return;
    entries("row_starts", p.row_starts, p.width);
    entries("row_to_batch", p.row_to_batch, p.page_table_rows - 1);
    if (context.device.type == DeviceType::cpu) return cpu::topk(p, input);
    gpu::topk(p, input, context);
  }
};

}  // namespace detail

/// values[r, j], indices[r, j]: the j-th of row r's k largest elements.
///   input     [num_rows, width]   f32, f16 or bf16; rows at any stride
///   values    [num_rows, k]       of input's dtype; behind a row's last element -inf
///   indices   [num_rows, k]       i64
/// k may be larger than width. Where sorts_anyway() the first is the largest, sorted or not. Sorting more than 8192 elements a row is slow
/// on a GPU.
inline void top_k(const TensorView& input, int64_t k, const TensorView& values, const TensorView& indices, bool sorted = false,
                  TieBreak tie_break = TieBreak::small, const Context& context = {}) {
  detail::TopkCall call("top_k", "input", input, "k", k, tie_break, context);
  call.p.values = call.output("values", values, input.dtype, {&input});
  call.p.indices = call.output("indices", indices, DType::i64, {&input, &values});
  call.p.wide_indices = true;
  call.p.sorted = sorted || sorts_anyway(k, tie_break);
  call.p.padding = -kInfinity;
  call.run();
}

/// What top_k_page_table_transform may be given besides.
struct TopkPages {
  TensorView row_to_batch = {};           // [num_rows] i32: the row of the page table; without it, row r's is r
  TensorView row_starts = {};             // [num_rows] i32: where a row's elements begin; without it 0
  TensorView page_table_row_starts = {};  // [num_rows] i32: the page of the first element; without it row_starts, if pages have one element
  int64_t page_size = 1;                  // elements of a page: a power of two
  TensorView raw_indices = {};            // [num_rows, k] i32, written: what was chosen, relative to row_starts
};

/// Element i of a row's window [row_starts, row_starts + lengths) is entry i % page_size of page
/// page_table[row_to_batch, page_table_row_starts + i / page_size]: out holds page * page_size + i % page_size of the k largest.
///   input       [num_rows, max_len]         f32, f16 or bf16; rows at any stride
///   page_table  [batch_size, max_pages]     i32; rows at any stride. Pages must be such that results fit 31 bits
///   lengths     [num_rows]                  i32
///   out         [num_rows, k]               i32
/// Windows are cut where they leave the row.
inline void top_k_page_table_transform(const TensorView& input, const TensorView& page_table, const TensorView& lengths, int64_t k,
                                       const TensorView& out, const TopkPages& pages = {}, TieBreak tie_break = TieBreak::small,
                                       const Context& context = {}) {
  detail::TopkCall call("top_k_page_table_transform", "input", input, "k", k, tie_break, context);
  TopkParams& p = call.p;
  call.check.rank("src_page_table", page_table, 2);
  call.check.dtype("src_page_table", page_table, DType::i32);
  call.check.inner_stride("src_page_table", page_table);
  call.check.device("src_page_table", page_table, context.device);
  call.check.in_range("src_page_table", page_table.size(0), int64_t(p.num_rows > 0), int64_t(INT32_MAX));
  call.check.in_range("src_page_table", page_table.size(1), int64_t(p.num_rows > 0 && p.width > 0), int64_t(INT32_MAX));
  call.check.that(pages.page_size > 0 && pages.page_size <= 1 << 30 && is_power_of_two(pages.page_size), "page_size",
                  "a power of two up to 2^30", [&] { return std::to_string(pages.page_size); });
  call.check.that(pages.page_size == 1 || !pages.row_starts || bool(pages.page_table_row_starts), "page_table_row_starts",
                  "given with row_starts where page_size is more than 1", "None");
  p.lengths = call.array("lengths", lengths, "num_rows", p.num_rows);
  p.row_to_batch = call.array("row_to_batch", pages.row_to_batch, "num_rows", p.num_rows);
  p.row_starts = call.array("row_starts", pages.row_starts, "num_rows", p.num_rows);
  p.page_table_starts = call.array("page_table_row_starts", pages.page_table_row_starts, "num_rows", p.num_rows);
  call.check.that(p.row_to_batch || page_table.size(0) >= p.num_rows, "src_page_table", "a row for every row of input, or row_to_batch",
                  [&] { return "shape " + shape_of(page_table); });
  p.page_table = page_table.as<const int32_t>();
  p.page_table_stride = page_table.stride(0);
  p.page_table_rows = int32_t(page_table.size(0));
  p.page_table_width = int32_t(page_table.size(1));
  while (int64_t(1) << p.log2_page_size < pages.page_size) ++p.log2_page_size;
  p.indices = call.output("out", out, DType::i32, {&input, &page_table, &lengths});
  p.raw_indices =
      static_cast<int32_t*>(call.output("out_raw_indices", pages.raw_indices, DType::i32, {&input, &page_table, &lengths, &out}));
  call.run();
}

/// out holds the indices of the k largest of a row's window [row_starts, row_starts + lengths), from row_starts on, plus the row's offset.
///   input       [num_rows, max_len]   f32, f16 or bf16; rows at any stride
///   offsets, lengths, row_starts (or none: 0)   [num_rows]   i32
///   out         [num_rows, k]         i32
inline void top_k_ragged_transform(const TensorView& input, const TensorView& offsets, const TensorView& lengths, int64_t k,
                                   const TensorView& out, const TensorView& row_starts = {}, TieBreak tie_break = TieBreak::small,
                                   const Context& context = {}) {
  detail::TopkCall call("top_k_ragged_transform", "input", input, "k", k, tie_break, context);
  call.p.offsets = call.array("offsets", offsets, "num_rows", call.p.num_rows);
  call.p.lengths = call.array("lengths", lengths, "num_rows", call.p.num_rows);
  call.p.row_starts = call.array("row_starts", row_starts, "num_rows", call.p.num_rows);
  call.p.indices = call.output("out", out, DType::i32, {&input, &offsets, &lengths});
  call.run();
}

/// The k largest of each row of decode steps: every request has next_n rows (one, but for speculation), of which the last sees all of its
/// seq_lens tokens, and compress_ratio tokens share an element. Row r's elements are the first
/// (seq_lens[r / next_n] - next_n + r % next_n + 1) / compress_ratio.
///   logits        [num_requests * next_n, max_seq_len]   f32, f16 or bf16; rows at any stride
///   seq_lens      [num_requests]                         i32
///   out_indices   [num_rows, k]                          i32
///   out_values    [num_rows, k]                          of logits' dtype, or none; behind a row's last element 0
inline void top_k_varlen(const TensorView& logits, const TensorView& seq_lens, int64_t k, const TensorView& out_indices,
                         const TensorView& out_values = {}, int64_t next_n = 1, int64_t compress_ratio = 1,
                         TieBreak tie_break = TieBreak::small, const Context& context = {}) {
  detail::TopkCall call("top_k_varlen", "logits", logits, "top_k", k, tie_break, context);
  call.check.in_range("next_n", next_n, int64_t(1), int64_t(INT32_MAX));
  call.check.in_range("compress_ratio", compress_ratio, int64_t(1), int64_t(INT32_MAX));
  call.check.that(
      call.p.num_rows % next_n == 0, "logits", [&] { return "a multiple of next_n=" + std::to_string(next_n) + " rows"; },
      [&] { return "shape " + shape_of(logits); });
  call.p.lengths = call.array("seq_lens", seq_lens, "num_rows / next_n", call.p.num_rows / next_n);
  call.p.next_n = int32_t(next_n);
  call.p.compress_ratio = int32_t(compress_ratio);
  call.p.indices = call.output("out_indices", out_indices, DType::i32, {&logits, &seq_lens});
  call.p.values = call.output("out_values", out_values, logits.dtype, {&logits, &seq_lens, &out_indices});
  call.run();
}

}  // namespace flashinfer
