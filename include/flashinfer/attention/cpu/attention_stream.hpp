// Host only. Which keys the threads of attention on the CPU walk, tile by tile, and where their rows lie: paged or ragged, across items and
// workers of the plan.
#pragma once

#include <optional>

#include <flashinfer/attention/attention_params.hpp>
#include <flashinfer/core/number.hpp>

namespace flashinfer::cpu {

namespace detail {
inline constexpr int kKvTile = 64;
}  // namespace detail

/// Choices of the CPU for the plan of a problem. They depend on nothing else, so that results do not depend on the machine's threads.
struct AttentionTiles {
  int32_t q_tile, kv_tile = detail::kKvTile, num_vo_tiles = 1;
  /// KV heads of one item: plan.num_kv_heads is problem.num_kv_heads / heads_per_item, and rows of those heads are one group.
  int32_t heads_per_item = 1;
  int32_t max_workers = 256;  // pieces of the line: enough for threads to even out
  int32_t min_units = 1;
};

/// Few rows a head (decode): items take the heads whose rows of a token fill 4 KB, so that memory is read in long runs and a page of
/// 4 KB is visited once, not once a head. On Zen 4 without huge pages that is 8 GB/s a core against 13. Many rows: one head, and 128
/// rows, which share the packing of a tile (5 % of their time); the scratch of a thread then fits an L2 of 512 KB up to head_dim 128.
constexpr AttentionTiles attention_tiles(const AttentionProblem& problem) {
  const int32_t group_size = problem.num_qo_heads / max(problem.num_kv_heads, int32_t(1));
  const int64_t rows = int64_t(max(problem.max_qo_len, int32_t(1))) * max(group_size, int32_t(1));
  AttentionTiles tiles{.q_tile = int32_t(clamp(round_up(rows, int64_t(4)), int64_t(4), int64_t(128)))};
  const int32_t most = rows > 16 ? 1 : min(int32_t(4096 / (problem.head_dim_qk * size_of(problem.kv))), int32_t(128 / rows));
  for (int32_t heads = 2; heads <= most; ++heads)
    if (problem.num_kv_heads % heads == 0) tiles.heads_per_item = heads, tiles.q_tile = int32_t(rows) * heads;
  // A partial result, written and read once, is to be a sixteenth of what its worker reads; less matters where many rows compute.
  const int64_t partial = int64_t(tiles.q_tile) * problem.head_dim_vo * 2 * int64_t(sizeof(float));
  const int64_t unit = int64_t(tiles.kv_tile) * tiles.heads_per_item * (problem.head_dim_qk + problem.head_dim_vo) * size_of(problem.kv);
  tiles.min_units = int32_t(clamp(ceil_div(16 * partial, max(unit, int64_t(1))), int64_t(1), int64_t(8)));
  return tiles;
}

namespace detail {

/// What keys that do not exist look like, in any dtype.
alignas(64) inline constexpr float kZeroRow[512] = {};

/// One tile of keys of one item.
struct KeyTile {
  WorkItem item;
  int32_t qo_len, kv_len;            // of the request
  int32_t begin = 0, count = 0;      // keys; count 0: the item has none
  int32_t hidden = 0;                // keys at the front that no row sees
  bool first = false, last = false;  // of the item
  const void* k[kKvTile];            // rows of the item's first head; kZeroRow for keys that are hidden or not there
  const void* v[kKvTile];
  // Where tokens have scales: where they lie, a page and a row in it or a token and 0 when ragged, and those of the head under way,
  // zeros for keys that are hidden or not there.
  int64_t page[kKvTile];
  int32_t row[kKvTile];
  float k_scale[kKvTile], v_scale[kKvTile];

  /// To the rows of the next head, so many bytes away.
  void next_head(int64_t k_bytes, int64_t v_bytes) {
    for (int i = hidden; i < count; ++i) {
      k[i] = static_cast<const char*>(k[i]) + k_bytes;
      v[i] = static_cast<const char*>(v[i]) + v_bytes;
    }
  }
};

/// The tiles of workers [worker, end_worker), one after another.
class TileStream {
 public:
  TileStream(const AttentionParams& params, const AttentionProblem& problem, int32_t worker, int32_t end_worker)
      : params_(params),
        element_size_(size_of(problem.kv)),
        heads_per_item_(problem.num_kv_heads / params.plan.num_kv_heads),
        scales_(params.scales.any_of_tokens()),
        worker_(worker),
        end_worker_(end_worker) {}

  bool next(KeyTile& tile) {
    if (position_ >= item_.kv_end) {
      if (!next_item()) return false;
      position_ = item_.kv_begin;
      tile.first = true;
    } else {
      tile.first = false;
    }
    tile.item = item_, tile.qo_len = qo_len_, tile.kv_len = kv_len_;
    tile.begin = position_;
    tile.count = max(min(item_.kv_end - position_, kKvTile), 0);
    position_ += kKvTile;
    tile.last = position_ >= item_.kv_end;
    find_rows(tile);
    return true;
  }

  /// The scales of the tile's tokens for one of the item's heads.
  void find_scales(KeyTile& tile, int32_t head) const {
    if (!scales_) return;
    const int32_t kv_head = tile.item.head * heads_per_item_ + head;
    for (int i = 0; i < kKvTile; ++i) {
      const bool there = i >= tile.hidden && i < tile.count;
      tile.k_scale[i] = there ? params_.scales.of_key(tile.page[i], tile.row[i], kv_head) : 0.0f;
      tile.v_scale[i] = there ? params_.scales.of_value(tile.page[i], tile.row[i], kv_head) : 0.0f;
    }
  }

 private:
  bool next_item() {
    while (!items_ || !items_->next(item_)) {
      if (worker_ >= end_worker_) return false;
      items_.emplace(params_.plan, worker_++);
    }
    const RequestWork work(params_.plan, item_.request);
    qo_len_ = work.qo_len, kv_len_ = work.kv_len;
    first_visible_ = work.keys(params_.plan, item_.q_tile).begin;
    return true;
  }

  /// Keys before every row's window are not read either: their pages may have been given away.
  void find_rows(KeyTile& tile) const {
    const AttentionPlan& plan = params_.plan;
    const KvView& kv = params_.kv;
    const int64_t head = int64_t(item_.head) * heads_per_item_, k_head = head * kv.k_stride_head, v_head = head * kv.v_stride_head;
    int i = tile.hidden = kv.num_pages > 0 ? clamp(first_visible_ - tile.begin, 0, tile.count) : tile.count;
    for (int j = 0; j < i; ++j) tile.k[j] = tile.v[j] = kZeroRow;
    while (i < tile.count) {
      const int32_t key = tile.begin + i;
      int64_t page, slot = 0;
      int32_t run = 1;
      if (plan.page_size == 0) {
        page = plan.kv_begin(item_.request) + int64_t(key);
      } else {
        const int64_t index = plan.kv_begin(item_.request) + int64_t(key / plan.page_size);
        page = index >= 0 && index < kv.num_indices ? kv.indices[index] : 0;
        slot = key % plan.page_size;
        run = min(plan.page_size - int32_t(slot), tile.count - i);
      }
      if (page < 0 || page >= kv.num_pages) page = 0;
      const bool paged = plan.page_size != 0;
      int64_t k_at = k_head + (paged ? page * kv.k_stride_page + slot * kv.k_stride_token : page * kv.k_stride_token);
      int64_t v_at = v_head + (paged ? page * kv.v_stride_page + slot * kv.v_stride_token : page * kv.v_stride_token);
      for (int32_t at = 0; scales_ && at < run; ++at) tile.page[i + at] = page, tile.row[i + at] = int32_t(slot) + at;
      for (; run > 0; --run, ++i, k_at += kv.k_stride_token, v_at += kv.v_stride_token) {
        tile.k[i] = static_cast<const char*>(kv.k) + k_at * element_size_;
        tile.v[i] = static_cast<const char*>(kv.v) + v_at * element_size_;
      }
    }
    for (; i < kKvTile; ++i) tile.k[i] = tile.v[i] = kZeroRow;
  }

  const AttentionParams& params_;
  const int element_size_, heads_per_item_;
  const bool scales_;
  int32_t worker_, end_worker_;
  std::optional<WorkIterator> items_;
  WorkItem item_{};
  int32_t position_ = 0, qo_len_ = 0, kv_len_ = 0, first_visible_ = 0;
};

}  // namespace detail
}  // namespace flashinfer::cpu
