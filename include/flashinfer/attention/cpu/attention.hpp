// Host only. Attention on the CPU: threads take workers of the plan, walk their tiles of keys, and merge partial results as the
// GPU kernels do. The steps inside a tile are in attention_tile.hpp.
//
// Bound by memory in decode: a key's row is read once for all rows of its group, and the rows of the next tile, across items,
// are prefetched while this one is computed. Bound by the multipliers in prefill: keys and values are packed once per tile.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>

#include <flashinfer/attention/attention_params.hpp>
#include <flashinfer/attention/cpu/attention_tile.hpp>
#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/parallel_for.hpp>

namespace flashinfer::cpu {

/// Choices of the CPU for the plan of a problem. They depend on nothing else, so that results do not depend on the machine's threads.
struct AttentionTiles {
  int32_t q_tile, kv_tile = 64, num_vo_tiles = 1;
  int32_t max_workers = 256;  // pieces of the line: enough for threads to even out
  int32_t min_units = 4;      // 256 keys: a partial result costs a hundredth of them
};
constexpr AttentionTiles attention_tiles(const AttentionProblem& problem) {
  const int64_t rows = int64_t(max(problem.max_qo_len, int32_t(1))) * (problem.num_qo_heads / max(problem.num_kv_heads, int32_t(1)));
  // 128 rows share the packing of a tile (5 % of their time); the scratch of a thread stays in an L2 of 512 KB up to head_dim 128.
  return {.q_tile = int32_t(clamp(round_up(rows, int64_t(4)), int64_t(4), int64_t(128)))};
}

namespace detail {

inline constexpr int kKvTile = 64;

/// What keys that do not exist look like, in any dtype.
alignas(64) inline constexpr float kZeroRow[512] = {};

/// One tile of keys of one item.
struct KeyTile {
  WorkItem item;
  int32_t qo_len, kv_len;      // of the request
  int32_t begin = 0, count = 0;  // keys; count 0: the item has none
  bool first = false, last = false;  // of the item
  const void* k[kKvTile];
  const void* v[kKvTile];
};

/// The tiles of workers [worker, end_worker), one after another.
class TileStream {
 public:
  TileStream(const AttentionParams& params, const AttentionProblem& problem, int32_t worker, int32_t end_worker)
      : params_(params), element_size_(size_of(problem.kv)), worker_(worker), end_worker_(end_worker) {}

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
    const int64_t k_head = item_.head * kv.k_stride_head, v_head = item_.head * kv.v_stride_head;
    int i = kv.num_pages > 0 ? clamp(first_visible_ - tile.begin, 0, tile.count) : tile.count;
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
      for (; run > 0; --run, ++i, k_at += kv.k_stride_token, v_at += kv.v_stride_token) {
        tile.k[i] = static_cast<const char*>(kv.k) + k_at * element_size_;
        tile.v[i] = static_cast<const char*>(kv.v) + v_at * element_size_;
      }
    }
    for (; i < kKvTile; ++i) tile.k[i] = tile.v[i] = kZeroRow;
  }

  const AttentionParams& params_;
  const int element_size_;
  int32_t worker_, end_worker_;
  std::optional<WorkIterator> items_;
  WorkItem item_{};
  int32_t position_ = 0, qo_len_ = 0, kv_len_ = 0, first_visible_ = 0;
};

/// A packed row of the item under way.
struct TileRow {
  int32_t token, qo_head;  // token of the request
  bool exists;             // inside q, whatever qo_indptr says
  KvRange visible;         // keys, relative to the tile
  tile::Softmax softmax;
};

/// Memory of one thread, kept from call to call.
class AttentionScratch {
 public:
  float* q;       // [q_tile, head_dim_qk], or pairs
  float* keys;    // packed
  float* values;  // packed
  float* scores;  // [q_tile, kKvTile]
  float* out;     // [q_tile, padded head_dim_vo]
  float* rotated; // [kKvTile, head_dim_qk], RoPE only
  TileRow* rows;  // [q_tile]

  void reserve(int q_tile, int head_dim_qk, int padded_vo) {
    size_t size = 0;
    auto take = [&](size_t count) {
      const size_t at = size;
      size += round_up(count * sizeof(float), size_t(64));
      return at;
    };
    const size_t at[] = {take(size_t(q_tile) * head_dim_qk), take(size_t(kKvTile) * head_dim_qk), take(size_t(kKvTile) * padded_vo),
                         take(size_t(q_tile) * kKvTile),     take(size_t(q_tile) * padded_vo),    take(size_t(kKvTile) * head_dim_qk),
                         take(size_t(q_tile) * sizeof(TileRow) / sizeof(float))};
    if (size > size_) {
      memory_.reset(static_cast<char*>(::operator new(size, std::align_val_t(64))));
      size_ = size;
    }
    char* base = memory_.get();
    float** const parts[] = {&q, &keys, &values, &scores, &out, &rotated};
    for (int i = 0; i < 6; ++i) *parts[i] = reinterpret_cast<float*>(base + at[i]);
    rows = reinterpret_cast<TileRow*>(base + at[6]);
  }

 private:
  struct Free {
    void operator()(char* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<char, Free> memory_;
  size_t size_ = 0;
};

/// Calls f with a null pointer to the C++ type of a dtype that queries, keys or outputs may have.
template <class F>
void visit_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32: return f(static_cast<float*>(nullptr));
    case DType::f16: return f(static_cast<f16*>(nullptr));
    case DType::bf16: return f(static_cast<bf16*>(nullptr));
    case DType::e4m3: return f(static_cast<e4m3*>(nullptr));
    default: return f(static_cast<e5m2*>(nullptr));
  }
}

/// Rotates x by `position` in the halves layout: (x[i], x[i + n/2]) by the angle position * rcp_scale * theta^(-2i/n).
struct Rope {
  double rcp_scale, log2_theta;
  int head_dim;

  double angle(int i, double position) const { return position * rcp_scale * std::exp2(-2.0 * i / head_dim * log2_theta); }
  void turns(double position, float* cosines, float* sines) const {
    for (int i = 0; i < head_dim / 2; ++i) cosines[i] = float(std::cos(angle(i, position))), sines[i] = float(std::sin(angle(i, position)));
  }
  void rotate(float* x, const float* cosines, const float* sines) const {
    const int half = head_dim / 2;
    for (int i = 0; i < half; ++i) {
      const float a = x[i], b = x[i + half];
      x[i] = a * cosines[i] - b * sines[i], x[i + half] = b * cosines[i] + a * sines[i];
    }
  }
};

/// What one thread does with a tile, whatever the variant.
class AttentionThread {
 protected:
  AttentionThread(const AttentionParams& params, const AttentionProblem& problem, IsaLevel isa, AttentionScratch& scratch, bool rotates)
      : params_(params), plan_(params.plan), problem_(problem), isa_(isa), scratch_(scratch), group_size_(plan_.group_size()),
        rotates_(rotates), rope_{params.variant.rope_rcp_scale, params.variant.rope_log2_theta, problem.head_dim_qk} {
    // An f32 output asks for more digits than probabilities of bf16 have, and rotated queries are not bf16 any more.
    pairs_ = isa == IsaLevel::avx512_bf16 && problem.q == DType::bf16 && problem.out == DType::bf16 &&
             (problem.kv == DType::bf16 || is_float8(problem.kv)) && !rotates;
    depth_ = pairs_ ? problem.head_dim_qk / 2 : problem.head_dim_qk;
    padded_vo_ = round_up(problem.head_dim_vo, 16);
    scratch.reserve(plan_.q_tile, problem.head_dim_qk, padded_vo_);
  }

  template <class F>
  void dispatch(const F& f) const {
    if (pairs_) dispatch_isa<IsaLevel::avx512_bf16>(isa_, f);
    else
      dispatch_isa<IsaLevel::avx512>(isa_, f);
  }

  /// Queries of the item into scratch; nothing seen yet.
  void begin_item(const KeyTile& tile) {
    const int32_t first_row = tile.item.q_tile * plan_.q_tile;
    num_rows_ = min(plan_.q_tile, tile.qo_len * group_size_ - first_row);
    int32_t token = first_row / group_size_, head = first_row % group_size_;
    const int64_t qo_begin = plan_.qo_begin(tile.item.request);
    for (int r = 0; r < num_rows_; ++r) {
      const bool exists = qo_begin + token >= 0 && qo_begin + token < params_.total_qo_len;
      scratch_.rows[r] = {token, tile.item.head * group_size_ + head, exists, {}, {-kInfinity, 0.0f}};
      if (++head == group_size_) head = 0, ++token;
    }
    std::fill_n(scratch_.out, int64_t(num_rows_) * padded_vo_, 0.0f);
    if (tile.count == 0) return;
    dispatch([&](auto isa) {
      using Isa = decltype(isa);
      visit_dtype(problem_.q, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if constexpr (sizeof(T) > 1) {
          for (int r = 0; r < num_rows_; ++r) {
            const TileRow& row = scratch_.rows[r];
            const T* from = static_cast<const T*>(params_.q) + (qo_begin + row.token) * params_.q_stride_token + row.qo_head * params_.q_stride_head;
            if (!row.exists) from = reinterpret_cast<const T*>(kZeroRow);
            tile::pack_query<Isa, tile::kHasPairs<Isa>>(from, problem_.head_dim_qk, scratch_.q + int64_t(r) * depth_);
          }
        }
      });
    });
    if (rotates_) rotate_queries(tile);
  }

  void rotate_queries(const KeyTile& tile) {
    float cosines[256], sines[256];
    for (int r = 0; r < num_rows_; ++r) {
      const int32_t token = scratch_.rows[r].token;
      if (r == 0 || token != scratch_.rows[r - 1].token) rope_.turns(double(tile.kv_len) - tile.qo_len + token, cosines, sines);
      rope_.rotate(scratch_.q + int64_t(r) * depth_, cosines, sines);
    }
  }

  /// Keys of the tile that every row may see under causal and window masks.
  void find_visible(const KeyTile& tile) {
    for (int r = 0; r < num_rows_; ++r) {
      TileRow& row = scratch_.rows[r];
      if (r > 0 && row.token == scratch_.rows[r - 1].token) {
        row.visible = scratch_.rows[r - 1].visible;
        continue;
      }
      const KvRange keys = kv_range(plan_.causal, plan_.window_left, row.token, tile.qo_len, tile.kv_len);
      row.visible = {clamp(keys.begin - tile.begin, 0, tile.count), clamp(keys.end - tile.begin, 0, tile.count)};
    }
  }

  /// scores = q k^T.
  void score(const KeyTile& tile, const KeyTile& next) {
    const void* rotated[kKvTile];
    if (rotates_) rotate_keys(tile, rotated);
    dispatch([&](auto isa) {
      using Isa = decltype(isa);
      constexpr bool kPairs = tile::kHasPairs<Isa>;
      const tile::Panels<Isa> keys{scratch_.keys, depth_, round_up(tile.count, Isa::kLanes)};
      visit_dtype(rotates_ ? DType::f32 : problem_.kv, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if constexpr (!kPairs || is_same_v<T, bf16> || sizeof(T) == 1)
          tile::pack_keys<Isa, kPairs, T>(rotates_ ? rotated : tile.k, problem_.head_dim_qk, keys, rotates_ ? rotated : next.k);
      });
      tile::multiply<Isa, kPairs>(scratch_.q, depth_, num_rows_, keys, scratch_.scores, kKvTile, false);
    });
  }

  /// Keys as rotated floats.
  void rotate_keys(const KeyTile& tile, const void** rows) {
    float cosines[256], sines[256];
    for (int i = 0; i < kKvTile; ++i) {
      float* row = scratch_.rotated + int64_t(i) * problem_.head_dim_qk;
      rows[i] = i < tile.count ? row : kZeroRow;
      if (i >= tile.count) continue;
      dispatch([&](auto isa) {
        using Isa = decltype(isa);
        visit_dtype(problem_.kv, [&](auto* type) {
          tile::pack_query<Isa, false>(static_cast<const std::remove_pointer_t<decltype(type)>*>(tile.k[i]), problem_.head_dim_qk, row);
        });
      });
      rope_.turns(tile.begin + i, cosines, sines);
      rope_.rotate(row, cosines, sines);
    }
  }

  /// Softmax of the scores, which are logits once scaled into the log2 domain, then out = out * rescale + p v.
  void accumulate(const KeyTile& tile, const KeyTile& next, float scale) {
    dispatch([&](auto isa) {
      using Isa = decltype(isa);
      constexpr bool kPairs = tile::kHasPairs<Isa>;
      const int columns = round_up(tile.count, Isa::kLanes);
      const tile::Panels<Isa> values{scratch_.values, kPairs ? columns / 2 : tile.count, round_up(problem_.head_dim_vo, Isa::kLanes)};
      for (int r = 0; r < num_rows_; ++r) {
        TileRow& row = scratch_.rows[r];
        tile::softmax_row<Isa, kPairs>(scratch_.scores + r * kKvTile, columns, row.visible.begin, row.visible.end, scale, row.softmax,
                                       scratch_.out + int64_t(r) * padded_vo_, values.columns);
      }
      visit_dtype(problem_.kv, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if constexpr (!kPairs || is_same_v<T, bf16> || sizeof(T) == 1)
          tile::pack_values<Isa, kPairs, T>(tile.v, problem_.head_dim_vo, values, next.v);
      });
      tile::multiply<Isa, kPairs>(scratch_.scores, kKvTile, num_rows_, values, scratch_.out, padded_vo_, true);
    });
  }

  /// Leaves the rows in the item's slot. True for the last of the segment's workers: it finds the merged rows in scratch.
  bool merge(const WorkItem& item) {
    const int64_t vo = problem_.head_dim_vo;
    const int64_t at = int64_t(item.slot) * plan_.q_tile;
    for (int r = 0; r < num_rows_; ++r) {
      plan_.partial_max[at + r] = scratch_.rows[r].softmax.max;
      plan_.partial_sum[at + r] = scratch_.rows[r].softmax.sum;
      std::copy_n(scratch_.out + int64_t(r) * padded_vo_, vo, plan_.partial_out + (at + r) * vo);
    }
    std::atomic_ref<int32_t> counter(plan_.counters[item.first_slot]);
    if (counter.fetch_add(1, std::memory_order_acq_rel) + 1 < item.num_slots) return false;
    counter.store(0, std::memory_order_relaxed);  // for the next launch of this plan
    dispatch([&](auto isa) {
      for (int r = 0; r < num_rows_; ++r) {
        tile::Softmax merged{-kInfinity, 0.0f};
        for (int32_t i = 0; i < item.num_slots; ++i) merged.max = max(merged.max, plan_.partial_max[int64_t(item.slot_at(i)) * plan_.q_tile + r]);
        float* out = scratch_.out + int64_t(r) * padded_vo_;
        std::fill_n(out, padded_vo_, 0.0f);
        for (int32_t i = 0; i < item.num_slots; ++i) {
          const int64_t from = int64_t(item.slot_at(i)) * plan_.q_tile + r;
          const float weight = merged.max == -kInfinity ? 0.0f : std::exp2(plan_.partial_max[from] - merged.max);
          merged.sum += weight * plan_.partial_sum[from];
          tile::blend_row<decltype(isa)>(out, plan_.partial_out + from * vo, problem_.head_dim_vo, 1.0f, weight);
        }
        scratch_.rows[r].softmax = merged;
      }
    });
    return true;
  }

  /// out = o / sum and lse of the rows, natural-log sinks (of each row's head) joining the sum.
  template <class Sink>
  void write(const WorkItem& item, const Sink& sink) {
    const int64_t qo_begin = plan_.qo_begin(item.request);
    dispatch([&](auto isa) {
      using Isa = decltype(isa);
      visit_dtype(problem_.out, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if constexpr (sizeof(T) > 1) {
          for (int r = 0; r < num_rows_; ++r) {
            const TileRow& row = scratch_.rows[r];
            if (!row.exists) continue;
            const float sink_log2 = sink(row.qo_head) * kLog2e;
            const float greatest = max(row.softmax.max, sink_log2);
            const float keep = greatest == -kInfinity ? 0.0f : std::exp2(row.softmax.max - greatest);
            const float sum = row.softmax.sum * keep + (sink_log2 == -kInfinity ? 0.0f : std::exp2(sink_log2 - greatest));
            const int64_t token = qo_begin + row.token;
            T* to = static_cast<T*>(params_.out) + token * params_.out_stride_token + row.qo_head * params_.out_stride_head;
            tile::write_row<Isa>(to, scratch_.out + int64_t(r) * padded_vo_, problem_.head_dim_vo,
                                           sum > 0.0f ? keep / sum * params_.out_scale : 0.0f);
            if (params_.lse)
              params_.lse[token * params_.lse_stride_token + row.qo_head * params_.lse_stride_head] =
                  sum > 0.0f ? (greatest + std::log2(sum)) * params_.lse_factor : -kInfinity;
          }
        }
      });
    });
  }

  const AttentionParams& params_;
  const AttentionPlan& plan_;
  const AttentionProblem& problem_;
  const IsaLevel isa_;
  AttentionScratch& scratch_;
  const int32_t group_size_;
  const bool rotates_;
  const Rope rope_;
  bool pairs_;         // a and b of the products are bf16 pairs
  int depth_;          // numbers of a query: head_dim_qk, or half of it in pairs
  int padded_vo_;
  int num_rows_ = 0;   // of the item under way
};

template <class Variant>
inline constexpr bool kIsBuiltin = false;
template <VariantFlags kFlags>
inline constexpr bool kIsBuiltin<BuiltinVariant<kFlags>> = true;

template <class Variant>
class VariantThread : AttentionThread {
 public:
  VariantThread(const AttentionParams& params, const AttentionProblem& problem, IsaLevel isa, AttentionScratch& scratch)
      : AttentionThread(params, problem, isa, scratch, rotates(params.variant)) {}

  void run(int32_t worker, int32_t end_worker) {
    TileStream tiles(params_, problem_, worker, end_worker);
    KeyTile a, b;
    KeyTile *now = &a, *ahead = &b;
    for (bool more = tiles.next(*now); more; std::swap(now, ahead)) {
      more = tiles.next(*ahead);
      if (now->first) begin_item(*now);
      if (now->count > 0) {
        const KeyTile& next = more ? *ahead : *now;
        find_visible(*now);
        score(*now, next);
        accumulate(*now, next, transform(*now));
      }
      if (now->last && (now->item.slot < 0 || merge(now->item)))
        write(now->item, [&](int32_t qo_head) { return Variant::sink(params_.variant, qo_head); });
    }
  }

 private:
  static bool rotates(const VariantParams& variant) {
    if constexpr (requires { Variant::flags; }) return Variant::flags.rope && variant.rope_log2_theta > 0.0f;
    return false;
  }

  /// Scores become logits where the variant asks for it. Returns what takes them into the log2 domain.
  float transform(const KeyTile& tile) {
    const VariantParams& variant = params_.variant;
    bool asked = Variant::kTransformsLogits || Variant::kMasks;
    if constexpr (kIsBuiltin<Variant>) asked = variant.soft_cap > 0.0f || variant.alibi_slopes || variant.custom_mask;
    if (!asked) return variant.sm_scale * kLog2e;
    if constexpr (kIsBuiltin<Variant>) {  // in vectors; the same steps as Variant::logit
      dispatch([&](auto isa) {
        for (int r = 0; r < num_rows_; ++r) {
          const TileRow& row = scratch_.rows[r];
          const float slope = variant.alibi_slopes ? variant.alibi_slopes[variant.qo_head_offset + row.qo_head] : 0.0f;
          tile::transform_row<decltype(isa)>(scratch_.scores + r * kKvTile, round_up(tile.count, decltype(isa)::kLanes), variant.sm_scale, slope,
                                             float(tile.begin - row.token), variant.soft_cap);
        }
      });
      if (!variant.custom_mask) return kLog2e;
    }
    for (int r = 0; r < num_rows_; ++r) {
      const TileRow& row = scratch_.rows[r];
      float* scores = scratch_.scores + r * kKvTile;
      LogitPosition at{tile.item.request, row.token, tile.qo_len, tile.begin + row.visible.begin, tile.kv_len, row.qo_head, tile.item.head};
      for (int i = row.visible.begin; i < row.visible.end; ++i, ++at.kv_idx) {
        if constexpr (!kIsBuiltin<Variant>) scores[i] = Variant::logit(variant, scores[i] * variant.sm_scale, at);
        if (!Variant::visible(variant, at)) scores[i] = -kInfinity;
      }
    }
    return kLog2e;
  }
};

}  // namespace detail

/// Attention of CPU tensors along params.plan, whose lengths, worker starts, counters and partials are host memory; the plan's
/// tiles are attention_tiles(problem). Formula and shapes: attention/attention.hpp, which checks the arguments. Results do not
/// depend on the number of threads, bit for bit.
template <class Variant = BuiltinVariant<kAllVariants>>
  requires AttentionVariant<Variant>
void attention(const AttentionParams& params, const AttentionProblem& problem, IsaLevel isa = best_isa()) {
  parallel_for(params.plan.header->num_workers, 1, [&](int64_t begin, int64_t end) {
    thread_local detail::AttentionScratch scratch;
    detail::VariantThread<Variant>(params, problem, isa, scratch).run(int32_t(begin), int32_t(end));
  });
}

}  // namespace flashinfer::cpu
