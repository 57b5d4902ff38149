// What host and device share of top-k selection: the order of a row's elements, the arguments of one launch and what is written for a
// chosen element, and the compile-time choices of the kernel.
#pragma once

#include <flashinfer/core/dtype.hpp>
#include <flashinfer/core/math.hpp>
#include <flashinfer/core/row_order.hpp>

namespace flashinfer {

/// Which of equal elements are chosen where not all of them fit: those of lower, or those of higher index.
enum class TieBreak : uint8_t { small, large };

/// Whether top_k() sorts unasked: few are chosen by their ranks, whose order costs less than that of their indices (H100, k 64 of 128256, 1
/// and 16 rows: 6.3 and 14.4 us, by index 7.2 and 15.6). Not where equal elements would come by falling index: who asks for
/// TieBreak::large, but not for values in order, has them by rising index, as FlashInfer does.
constexpr bool sorts_anyway(int64_t k, TieBreak tie_break) { return k <= 512 && tie_break == TieBreak::small; }

struct TopkParams {
  const void* input = nullptr;
  int64_t row_stride = 0;  // in elements
  int64_t num_rows = 0;
  int32_t width = 0;  // elements of a row in memory
  int32_t k = 0;
  const int32_t* lengths = nullptr;     // of every next_n rows, times compress_ratio; null: the whole row
  const int32_t* row_starts = nullptr;  // null: 0
  int32_t next_n = 1, compress_ratio = 1;

  void* values = nullptr;               // of input's dtype; null: not wanted
  void* indices = nullptr;              // i64 if wide_indices, else i32
  int32_t* raw_indices = nullptr;       // null: not wanted
  const int32_t* offsets = nullptr;     // of a row, added to its indices; null: 0
  const int32_t* page_table = nullptr;  // null: indices are written as they are
  const int32_t* row_to_batch = nullptr;
  const int32_t* page_table_starts = nullptr;
  int64_t page_table_stride = 0;
  int32_t page_table_rows = 0, page_table_width = 0;
  int32_t log2_page_size = 0;

  /// Elements that a block has room for in shared memory. Up to a fourth of it is selected from candidates; for more, and where those do
  /// not fit, the row is read several times.
  int32_t capacity = 0;

  float padding = 0;  // of values behind the last element
  TieBreak tie_break = TieBreak::small;
  bool sorted = false;
  bool wide_indices = false;
};

/// The part of a row that is selected from. Whatever lengths and starts say, it lies inside the row.
struct RowWindow {
  int32_t start, length;
};
FLASHINFER_HOST_DEVICE constexpr RowWindow window_of(const TopkParams& p, int64_t row) {
  const int32_t start = p.row_starts ? clamp(p.row_starts[row], 0, p.width) : 0;
  if (!p.lengths) return {start, p.width - start};
  const int32_t group = int32_t(row) / p.next_n, step = int32_t(row) - group * p.next_n;
  const int64_t tokens = int64_t(p.lengths[group]) - p.next_n + step + 1;
  return {start, min(int32_t(clamp(tokens, int64_t(0), int64_t(0x7fffffff))) / p.compress_ratio, p.width - start)};
}

/// An element's rank in its row: the greater one comes first. No two are equal.
FLASHINFER_HOST_DEVICE constexpr uint64_t topk_rank(float value, int32_t index, TieBreak tie_break) {
  return order_rank(order_key(value), uint32_t(tie_break == TieBreak::small ? index : ~index));
}
FLASHINFER_HOST_DEVICE constexpr int32_t topk_index(uint64_t rank, TieBreak tie_break) {
  const int32_t index = int32_t(index_of_rank(rank));
  return tie_break == TieBreak::small ? index : ~index;
}

/// Writes the index that was chosen j-th in a row.
FLASHINFER_HOST_DEVICE constexpr void write_index(const TopkParams& p, int64_t row, int32_t j, int32_t index) {
  const int64_t at = row * p.k + j;
  if (p.raw_indices) p.raw_indices[at] = index;
  if (p.page_table) {
    const int64_t batch = p.row_to_batch ? clamp(p.row_to_batch[row], 0, p.page_table_rows - 1) : row;
    const int32_t first = p.page_table_starts ? p.page_table_starts[row] : p.row_starts ? p.row_starts[row] : 0;
    const int64_t entry = clamp(int64_t(first) + (index >> p.log2_page_size), int64_t(0), int64_t(p.page_table_width) - 1);
    const int32_t page = p.page_table[batch * p.page_table_stride + entry];
    index = int32_t(uint32_t(page) << p.log2_page_size) + (index & ((1 << p.log2_page_size) - 1));
  } else if (p.offsets) {
    index += p.offsets[row];
  }
  if (p.wide_indices)
    static_cast<int64_t*>(p.indices)[at] = index;
  else
    static_cast<int32_t*>(p.indices)[at] = index;
}

/// The j-th place of a row of fewer elements.
template <class T>
FLASHINFER_HOST_DEVICE constexpr void write_padding(const TopkParams& p, int64_t row, int32_t j, T padding) {
  const int64_t at = row * p.k + j;
  if (p.raw_indices) p.raw_indices[at] = -1;
  if (p.wide_indices)
    static_cast<int64_t*>(p.indices)[at] = -1;
  else
    static_cast<int32_t*>(p.indices)[at] = -1;
  if (p.values) static_cast<T*>(p.values)[at] = padding;
}

struct TopkConfig {
  static constexpr const char *kName = "TopkConfig", *kKernel = "TopkKernel", *kHeader = "topk/gpu/topk_kernel.cuh";

  DType input = DType::f32;
  int32_t threads = 512;
  int32_t vecs = 2;     // 16-byte loads that a thread has in flight, for a sample or for all
  int32_t stages = 4;   // vectors of a thread in its ring (RowStream), where registers do not hold the row; 0: no ring
  int32_t cluster = 1;  // blocks that share a row; more than one: SM90 up

  /// Room in the first block for candidates that each block of a cluster sends it. Where registers hold the row there is more of it.
  FLASHINFER_HOST_DEVICE constexpr int slots() const { return (cluster == 16 && stages == 0 ? 4096 : 512) / cluster; }
  /// Of shared memory, with room for `capacity` candidates: these, what blocks send each other, the histogram, sums and keys of
  /// warps, the ring.
  FLASHINFER_HOST_DEVICE constexpr int smem_bytes(int capacity) const {
    return capacity * 8 + (8 << 10) + threads / 8 * 9 + cluster * threads / 4 + 88 + (cluster > 1 ? cluster * (slots() * 8 + 16) + 16 : 0) +
           stages * threads * 16;
  }

  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("threads", threads), f("vecs", vecs), f("stages", stages), f("cluster", cluster);
  }
};

}  // namespace flashinfer
