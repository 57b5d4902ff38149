// Top-k selection, bound under FlashInfer's names and argument orders.
#include <bindings/module.hpp>
#include <flashinfer/topk/topk.hpp>

#include <nanobind/stl/pair.h>

namespace flashinfer::bindings {
namespace {

/// FlashInfer's TopKTieBreak: NONE and SMALL are one here, for every selection is deterministic.
TieBreak tie_break_of(const Check& check, int64_t tie_break) {
  check.in_range("tie_break", tie_break, int64_t(0), int64_t(2));
  return tie_break == 2 ? TieBreak::large : TieBreak::small;
}

/// The extents of an output [num_rows, k]; what the op refuses is made small, to be refused by it.
struct OutputShape {
  int64_t num_rows, k;
  OutputShape(const TensorView& x, int64_t k) : num_rows(x.ndim > 0 ? x.shape[0] : 0), k(max(k, int64_t(0))) {}
};

std::pair<Tensor, Tensor> top_k(const Tensor& input, int64_t k, bool sorted, bool, int64_t tie_break, bool) {
  Call call("top_k");
  const Check check("top_k");
  const TieBreak ties = tie_break_of(check, tie_break);
  const TensorView x = call.in("input", input);
  check.in_range("k", k, int64_t(1), int64_t(INT32_MAX));
  const OutputShape shape(x, k);
  const Output values = call.out("values", {}, x.dtype, {shape.num_rows, shape.k}),
               indices = call.out("indices", {}, DType::i64, {shape.num_rows, shape.k});
  call.run([&](const Context& context) { flashinfer::top_k(x, k, values.view, indices.view, sorted, ties, context); });
  return {values.result(), indices.result()};
}

Tensor top_k_page_table_transform(const Tensor& input, const Tensor& src_page_table, const Tensor& lengths, int64_t k,
                                  const std::optional<Tensor>& row_to_batch, bool, int64_t tie_break, bool,
                                  const std::optional<Tensor>& row_starts, const std::optional<Tensor>& page_table_row_starts,
                                  int64_t page_size, const std::optional<Tensor>& out, const std::optional<Tensor>& out_raw_indices) {
  Call call("top_k_page_table_transform");
  const Check check("top_k_page_table_transform");
  const TieBreak ties = tie_break_of(check, tie_break);
  const TensorView x = call.in("input", input), table = call.in("src_page_table", src_page_table), n = call.in("lengths", lengths);
  check.in_range("k", k, int64_t(1), int64_t(INT32_MAX));
  TopkPages pages;
  pages.row_to_batch = call.in("row_to_batch", row_to_batch);
  pages.row_starts = call.in("row_starts", row_starts);
  pages.page_table_row_starts = call.in("page_table_row_starts", page_table_row_starts);
  pages.page_size = page_size;
  const OutputShape shape(x, k);
  const Output y = call.out("out", out, DType::i32, {shape.num_rows, shape.k});
  if (out_raw_indices) pages.raw_indices = call.out("out_raw_indices", *out_raw_indices);
  call.run([&](const Context& context) { flashinfer::top_k_page_table_transform(x, table, n, k, y.view, pages, ties, context); });
  return y.result();
}

Tensor top_k_ragged_transform(const Tensor& input, const Tensor& offsets, const Tensor& lengths, int64_t k, bool, int64_t tie_break, bool,
                              const std::optional<Tensor>& row_starts) {
  Call call("top_k_ragged_transform");
  const Check check("top_k_ragged_transform");
  const TieBreak ties = tie_break_of(check, tie_break);
  const TensorView x = call.in("input", input), o = call.in("offsets", offsets), n = call.in("lengths", lengths);
  const TensorView starts = call.in("row_starts", row_starts);
  check.in_range("k", k, int64_t(1), int64_t(INT32_MAX));
  const OutputShape shape(x, k);
  const Output y = call.out("out", {}, DType::i32, {shape.num_rows, shape.k});
  call.run([&](const Context& context) { flashinfer::top_k_ragged_transform(x, o, n, k, y.view, starts, ties, context); });
  return y.result();
}

std::pair<Tensor, std::optional<Tensor>> top_k_varlen(const Tensor& logits, const Tensor& seq_lens, int64_t k, int64_t compress_ratio,
                                                      int64_t next_n, bool return_values, const std::optional<Tensor>& out_indices,
                                                      const std::optional<Tensor>& out_values) {
  Call call("top_k_varlen");
  const TensorView x = call.in("logits", logits), n = call.in("seq_lens", seq_lens);
  Check("top_k_varlen").in_range("top_k", k, int64_t(1), int64_t(INT32_MAX));
  const OutputShape shape(x, k);
  const Output indices = call.out("out_indices", out_indices, DType::i32, {shape.num_rows, shape.k});
  Output values;
  if (return_values) values = call.out("out_values", out_values, x.dtype, {shape.num_rows, shape.k});
  call.run([&](const Context& context) {
    flashinfer::top_k_varlen(x, n, k, indices.view, values.view, next_n, compress_ratio, TieBreak::small, context);
  });
  std::optional<Tensor> results;
  if (return_values) results = values.result();
  return {indices.result(), results};
}

const Family family{[](nb::module_& m) {
  m.def(
      "top_k", &top_k, "input"_a, "k"_a, "sorted"_a = false, "deterministic"_a = false, "tie_break"_a = 0, "dsa_graph_safe"_a = false,
      R"((values, indices) of the k largest of each row: from the largest on if sorted, or k <= 512 without tie_break 2, else by rising index.

input: [num_rows, width], float32, float16 or bfloat16, rows at any stride. values: [num_rows, k], input's dtype; indices: [num_rows, k],
int64. Of equal elements those of lower index are chosen, and come first, with tie_break 2 those of higher index; +0 and -0 are equal,
NaN comes behind -inf. Places behind the last element of a row hold -inf and -1. Every call is deterministic and can be captured in
a CUDA graph, whatever deterministic and dsa_graph_safe say.)");
  m.def(
      "top_k_page_table_transform", &top_k_page_table_transform, "input"_a, "src_page_table"_a, "lengths"_a, "k"_a,
      "row_to_batch"_a = nb::none(), "deterministic"_a = false, "tie_break"_a = 0, "dsa_graph_safe"_a = false, "row_starts"_a = nb::none(),
      "page_table_row_starts"_a = nb::none(), nb::kw_only(), "page_size"_a = 1, "out"_a = nb::none(), "out_raw_indices"_a = nb::none(),
      R"(The slots in a paged cache of the k largest of each row, in the order of their indices: page * page_size + i % page_size for element i,
whose page is src_page_table[row_to_batch[row], page_table_row_starts[row] + i // page_size].

input: [num_rows, max_len], float32, float16 or bfloat16; row r's elements are the lengths[r] from row_starts[r] on. src_page_table:
[batch_size, max_pages]; lengths, row_to_batch (None: row r's is r), row_starts (None: 0), page_table_row_starts (None: row_starts):
[num_rows], int32. out, out_raw_indices (i itself): [num_rows, k], int32; places behind a row's last element hold -1.)");
  m.def("top_k_ragged_transform", &top_k_ragged_transform, "input"_a, "offsets"_a, "lengths"_a, "k"_a, "deterministic"_a = false,
        "tie_break"_a = 0, "dsa_graph_safe"_a = false, "row_starts"_a = nb::none(),
        R"(The indices of the k largest of each row, in rising order, plus the row's offset.

input: [num_rows, max_len], float32, float16 or bfloat16; row r's elements are the lengths[r] from row_starts[r] (None: 0) on, where
indices begin. offsets, lengths, row_starts: [num_rows], int32. The result is [num_rows, k], int32; places behind a row's last
element hold -1.)");
  m.def("_top_k_varlen", &top_k_varlen, "logits"_a, "seq_lens"_a, "top_k"_a, "compress_ratio"_a, "next_n"_a, "return_values"_a,
        "out_indices"_a.none(), "out_values"_a.none());
}};

const Tuned topk_kernels{"topk", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_topk(arch, add); }};

}  // namespace
}  // namespace flashinfer::bindings
