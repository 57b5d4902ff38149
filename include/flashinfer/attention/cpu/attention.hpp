// Host only. Attention on the CPU: threads take workers of the plan, walk their tiles of keys (attention_stream.hpp), and merge partial
// results as the GPU kernels do. The steps inside a tile are in attention_tile.hpp.
//
// Bound by memory in decode: a key's row is read once for all rows of its group, and the rows of the next tile, across items,
// are prefetched while this one is computed. Bound by the multipliers in prefill: keys and values are packed once per tile.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>
#include <vector>

#include <flashinfer/attention/attention_params.hpp>
#include <flashinfer/attention/cpu/attention_stream.hpp>
#include <flashinfer/attention/cpu/attention_tile.hpp>
#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/parallel_for.hpp>

namespace flashinfer::cpu {

namespace detail {

/// Up to so many rows of a head use values where they are; more rows share packed ones.
inline constexpr int kFewRows = 8;
/// Up to so many, the product with the keys leaves memory time: it prefetches too.
inline constexpr int kSteppingRows = 16;

/// A row of the item under way.
struct TileRow {
  int32_t token, qo_head;  // token of the request
  bool exists;             // inside q, whatever qo_indptr says
  float scale;             // of its scores
  KvRange visible;         // keys, relative to the tile
  tile::Softmax softmax;
};

/// RoPE in the halves layout: (x[i], x[i + n/2]) turns by position * rcp_scale * theta^(-2i/n). A key's turn is its tile's, in double,
/// combined with its place in the tile, from a table: a sine and cosine per key and pair would cost more than attention.
class Rope {
 public:
  void prepare(double rcp_scale, double log2_theta, int head_dim) {
    if (rcp_scale == rcp_scale_ && log2_theta == log2_theta_ && head_dim == 2 * half_) return;
    rcp_scale_ = rcp_scale, log2_theta_ = log2_theta, half_ = head_dim / 2;
    table_.resize(size_t(kKvTile) * head_dim);
    base_.resize(head_dim);
    for (int j = 0; j < kKvTile; ++j) turn(j, &table_[size_t(j) * head_dim]);
  }
  void set_base(double position) { turn(position, base_.data()); }
  /// Rotates x by base + j.
  void rotate(float* x, int j) const {
    const float *cosine = base_.data(), *sine = cosine + half_, *cosine_j = &table_[size_t(j) * 2 * half_], *sine_j = cosine_j + half_;
    for (int i = 0; i < half_; ++i) {
      const float c = cosine[i] * cosine_j[i] - sine[i] * sine_j[i], s = sine[i] * cosine_j[i] + cosine[i] * sine_j[i];
      const float a = x[i], b = x[i + half_];
      x[i] = a * c - b * s, x[i + half_] = b * c + a * s;
    }
  }

 private:
  void turn(double position, float* to) const {
    for (int i = 0; i < half_; ++i) {
      const double angle = position * rcp_scale_ * std::exp2(-double(i) / half_ * log2_theta_);
      to[i] = float(std::cos(angle)), to[i + half_] = float(std::sin(angle));
    }
  }
  double rcp_scale_ = 0, log2_theta_ = 0;
  int half_ = 0;
  std::vector<float> table_, base_;  // cosines, then sines
};

/// Memory of one thread, kept from call to call.
class AttentionScratch {
 public:
  float* q;        // [rows, head_dim_qk], or pairs; head dimensions are padded
  float* keys;     // packed
  float* values;   // packed
  float* scores;   // [rows of a head, kKvTile]
  float* out;      // [rows, head_dim_vo]
  float* rotated;  // [kKvTile, head_dim_qk], RoPE only
  TileRow* rows;
  Rope rope;

  void reserve(int num_rows, int head_dim_qk, int head_dim_vo) {
    size_t size = 0;
    auto take = [&](size_t count) {
      const size_t at = size;
      size += round_up(count * sizeof(float), size_t(64));
      return at;
    };
    const size_t at[] = {take(size_t(num_rows) * head_dim_qk),
                         take(size_t(kKvTile) * head_dim_qk),
                         take(size_t(kKvTile) * head_dim_vo),
                         take(size_t(num_rows) * kKvTile),
                         take(size_t(num_rows) * head_dim_vo),
                         take(size_t(kKvTile) * head_dim_qk),
                         take(size_t(num_rows) * sizeof(TileRow) / sizeof(float))};
    if (size > size_) {
      memory_.reset(static_cast<char*>(::operator new(size, std::align_val_t(64))));
      std::memset(memory_.get(), 0, size);  // rows that pad a block of rows are computed too
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

/// Calls f with a null pointer to the C++ type of a dtype, any that queries, keys and outputs may have.
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

/// What one thread does with a tile, whatever the variant. Rows of the item lie head by head, in blocks of block_rows_.
class AttentionThread {
 protected:
  AttentionThread(const AttentionParams& params, const AttentionProblem& problem, IsaLevel isa, AttentionScratch& scratch, bool rotates)
      : params_(params),
        plan_(params.plan),
        problem_(problem),
        isa_(isa),
        scratch_(scratch),
        group_size_(problem.num_qo_heads / problem.num_kv_heads),
        num_heads_(problem.num_kv_heads / plan_.num_kv_heads),
        rotates_(rotates) {
    // An f32 output asks for more digits than probabilities of bf16 have, and rotated queries are not bf16 any more.
    const auto fits_bf16 = [](DType dtype) { return dtype == DType::bf16 || is_float8(dtype); };
    pairs_ = isa == IsaLevel::avx512_bf16 && fits_bf16(problem.q) && fits_bf16(problem.kv) && fits_bf16(problem.out) && !rotates;
    q_stride_ = round_up(pairs_ ? problem.head_dim_qk / 2 : problem.head_dim_qk, 16);
    vo_stride_ = round_up(problem.head_dim_vo, 16);
    scratch.reserve(num_heads_ * block_of(ceil_div(plan_.q_tile, num_heads_)), round_up(problem.head_dim_qk, 16), vo_stride_);
    if (rotates) scratch.rope.prepare(params.variant.rope_rcp_scale, params.variant.rope_log2_theta, problem.head_dim_qk);
  }

  static int block_of(int rows) { return rows == 1 ? 1 : round_up(rows, tile::kBlockRows); }
  float* q_of(int block_row) const { return scratch_.q + int64_t(block_row) * q_stride_; }
  float* out_of(int block_row) const { return scratch_.out + int64_t(block_row) * vo_stride_; }
  /// Rows of the head under way.
  TileRow* rows() const { return scratch_.rows + head_ * block_rows_; }

  /// f(place of a row in scratch, its place in a partial result).
  template <class F>
  void for_each_row(const F& f) const {
    for (int h = 0; h < num_heads_; ++h)
      for (int r = 0; r < num_rows_; ++r) f(h * block_rows_ + r, h * num_rows_ + r);
  }

  template <class F>
  void dispatch(const F& f) const {
    if (pairs_)
      dispatch_isa<IsaLevel::avx512_bf16>(isa_, f);
    else
      dispatch_isa<IsaLevel::avx512>(isa_, f);
  }

  /// Queries of the item into scratch; nothing seen yet.
  void begin_item(const KeyTile& tile) {
    // With several heads q_tile holds whole tokens: only with one may an item begin inside a group.
    const int32_t rows_per_token = num_heads_ * group_size_, first_row = tile.item.q_tile * plan_.q_tile;
    num_rows_ = min(plan_.q_tile, tile.qo_len * rows_per_token - first_row) / num_heads_;
    block_rows_ = block_of(num_rows_);
    const int64_t qo_begin = plan_.qo_begin(tile.item.request);
    for (int h = 0; h < num_heads_; ++h) {
      int32_t token = first_row / rows_per_token, in_group = first_row % rows_per_token;
      const int32_t first_head = (tile.item.head * num_heads_ + h) * group_size_;
      for (int r = 0; r < num_rows_; ++r) {
        const bool exists = qo_begin + token >= 0 && qo_begin + token < params_.total_qo_len;
        const float scale = params_.scales.of_scores(first_head + in_group, tile.item.head * num_heads_ + h);
        scratch_.rows[h * block_rows_ + r] = {token, first_head + in_group, exists, scale, {}, {-kInfinity, 0.0f}};
        if (++in_group == group_size_) in_group = 0, ++token;
      }
    }
    std::fill_n(scratch_.out, int64_t(num_heads_) * block_rows_ * vo_stride_, 0.0f);
    if (tile.count == 0) return;
    dispatch([&](auto isa) {
      using Isa = decltype(isa);
      visit_dtype(problem_.q, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if constexpr (tile::kOperand<tile::kHasPairs<Isa>, T>) {
          for_each_row([&](int at, int) {
            const TileRow& row = scratch_.rows[at];
            const T* from =
                static_cast<const T*>(params_.q) + (qo_begin + row.token) * params_.q_stride_token + row.qo_head * params_.q_stride_head;
            if (!row.exists) from = reinterpret_cast<const T*>(kZeroRow);
            tile::pack_query<Isa, tile::kHasPairs<Isa>>(from, problem_.head_dim_qk, q_of(at));
          });
        }
      });
    });
    if (!rotates_) return;
    int32_t token = -1;
    for_each_row([&](int at, int) {
      if (scratch_.rows[at].token != token) scratch_.rope.set_base(double(tile.kv_len) - tile.qo_len + (token = scratch_.rows[at].token));
      scratch_.rope.rotate(q_of(at), 0);
    });
  }

  /// Keys of the tile that every row may see under causal and window masks.
  void find_visible(const KeyTile& tile) {
    for (int r = 0; r < num_rows_; ++r) {
      TileRow* row = scratch_.rows + r;
      KvRange visible;
      if (r > 0 && row->token == row[-1].token) {
        visible = row[-1].visible;
      } else {
        const KvRange keys = kv_range(plan_.causal, plan_.window_left, row->token, tile.qo_len, tile.kv_len);
        visible = {clamp(keys.begin - tile.begin, 0, tile.count), clamp(keys.end - tile.begin, 0, tile.count)};
      }
      for (int h = 0; h < num_heads_; ++h) row[h * block_rows_].visible = visible;
    }
  }

  /// scores = q k^T of the head under way. `ahead`: keys of the next tile.
  void score(const KeyTile& tile, tile::Ahead& ahead) {
    const void* rotated[kKvTile];
    if (rotates_) rotate_keys(tile, rotated);
    dispatch([&](auto isa) {
      using Isa = decltype(isa);
      constexpr bool kPairs = tile::kHasPairs<Isa>;
      const int numbers = kPairs ? problem_.head_dim_qk / 2 : problem_.head_dim_qk;
      const tile::Panels<Isa> keys{scratch_.keys, round_up(numbers, Isa::kLanes), round_up(tile.count, Isa::kLanes)};
      // Packing a key takes as long as six rows of the product; both prefetch, each its share.
      const int blocks = keys.depth / Isa::kLanes * (keys.columns / Isa::kLanes), rows = num_rows_ <= kSteppingRows ? num_rows_ : 0;
      const int heads_after = num_heads_ - 1 - head_;
      ahead.spread(blocks * ((heads_after + 1) * (6 + rows)) / 6);
      visit_dtype(rotates_ ? DType::f32 : problem_.kv, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if constexpr (tile::kOperand<kPairs, T>)
          tile::pack_keys<Isa, kPairs, T>(rotates_ ? rotated : tile.k, problem_.head_dim_qk, keys, ahead);
      });
      if (rows > 0) ahead.spread(keys.steps(rows) * (heads_after * (6 + rows) + rows) / rows);
      tile::score<Isa, kPairs>(q_of(head_ * block_rows_), q_stride_, num_rows_, keys, scratch_.scores, kKvTile, rows > 0, ahead);
      if (params_.scales.any_of_heads() || params_.scales.any_of_tokens())
        for (int r = 0; r < num_rows_; ++r)
          tile::scale_row<Isa>(scratch_.scores + r * kKvTile, keys.columns, this->rows()[r].scale,
                               params_.scales.any_of_tokens() ? tile.k_scale : nullptr);
    });
  }

  /// Keys as rotated floats.
  void rotate_keys(const KeyTile& tile, const void** rows) {
    if (head_ == 0) scratch_.rope.set_base(tile.begin);
    const int64_t stride = round_up(problem_.head_dim_qk, 16);
    dispatch([&](auto isa) {
      using Isa = decltype(isa);
      visit_dtype(problem_.kv, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        for (int i = 0; i < tile.count; ++i)
          tile::pack_query<Isa, false>(static_cast<const T*>(tile.k[i]), problem_.head_dim_qk, scratch_.rotated + i * stride);
      });
    });
    for (int i = 0; i < kKvTile; ++i) {
      rows[i] = i < tile.count ? static_cast<const void*>(scratch_.rotated + i * stride) : kZeroRow;
      if (i < tile.count) scratch_.rope.rotate(scratch_.rotated + i * stride, i);
    }
  }

  /// Softmax of the scores, which are logits once scaled into the log2 domain, then out = out * rescale + p v. `ahead`: values of
  /// the next tile.
  void accumulate(const KeyTile& tile, float scale, tile::Ahead& ahead) {
    dispatch([&](auto isa) {
      using Isa = decltype(isa);
      constexpr bool kPairs = tile::kHasPairs<Isa>;
      const int columns = round_up(tile.count, Isa::kLanes);
      const tile::Panels<Isa> values{scratch_.values, kPairs ? columns / 2 : tile.count, round_up(problem_.head_dim_vo, Isa::kLanes)};
      float* out = out_of(head_ * block_rows_);
      for (int r = 0; r < num_rows_; ++r) {
        TileRow& row = rows()[r];
        tile::softmax_row<Isa, kPairs>(scratch_.scores + r * kKvTile, columns, row.visible.begin, row.visible.end, scale,
                                       params_.scales.any_of_tokens() ? tile.v_scale : nullptr, row.softmax, out + int64_t(r) * vo_stride_,
                                       values.columns);
      }
      const bool few = num_rows_ <= kFewRows;
      ahead.spread(values.steps(few ? num_rows_ : 1) * (num_heads_ - head_));
      visit_dtype(problem_.kv, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if constexpr (tile::kOperand<kPairs, T>) {
          if (few)
            tile::add_values_in_place<Isa, kPairs, T>(scratch_.scores, kKvTile, num_rows_, tile.v, values, problem_.head_dim_vo, out,
                                                      vo_stride_, ahead);
          else
            tile::pack_values<Isa, kPairs, T>(tile.v, problem_.head_dim_vo, values, ahead);
        }
      });
      if (!few) tile::add_values<Isa, kPairs>(scratch_.scores, kKvTile, num_rows_, values, out, vo_stride_);
    });
  }

  /// Leaves the rows in the item's slot. True for the last of the segment's workers: it finds the merged rows in scratch.
  bool merge(const WorkItem& item) {
    const int64_t vo = problem_.head_dim_vo;
    for_each_row([&](int at, int place) {
      const int64_t to = int64_t(item.slot) * plan_.q_tile + place;
      plan_.partial_states[to] = {scratch_.rows[at].softmax.max, scratch_.rows[at].softmax.sum};
      std::copy_n(out_of(at), vo, plan_.partial_out + to * vo);
    });
    std::atomic_ref<int32_t> counter(plan_.counters[item.first_slot]);
    if (counter.fetch_add(1, std::memory_order_acq_rel) + 1 < item.num_slots) return false;
    counter.store(0, std::memory_order_relaxed);  // for the next launch of this plan
    dispatch([&](auto isa) {
      using Isa = decltype(isa);
      for_each_row([&](int at, int place) {
        const auto slot_row = [&](int32_t i) { return int64_t(item.slot_at(i)) * plan_.q_tile + place; };
        tile::Softmax merged{-kInfinity, 0.0f};
        for (int32_t i = 0; i < item.num_slots; ++i) merged.max = max(merged.max, plan_.partial_states[slot_row(i)].max);
        std::fill_n(out_of(at), vo_stride_, 0.0f);
        for (int32_t i = 0; i < item.num_slots; ++i) {
          const int64_t from = slot_row(i);
          const float weight = merged.max == -kInfinity ? 0.0f : std::exp2(plan_.partial_states[from].max - merged.max);
          merged.sum += weight * plan_.partial_states[from].sum;
          tile::add_row<Isa>(out_of(at), plan_.partial_out + from * vo, problem_.head_dim_vo, weight);
        }
        scratch_.rows[at].softmax = merged;
      });
    });
    return true;
  }

  /// out = o / sum and lse of the rows. sink(qo_head): the natural-log logit that joins the sum.
  template <class Sink>
  void write(const WorkItem& item, const Sink& sink) {
    const int64_t qo_begin = plan_.qo_begin(item.request);
    dispatch([&](auto isa) {
      using Isa = decltype(isa);
      visit_dtype(problem_.out, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        for_each_row([&](int at, int) {
          const TileRow& row = scratch_.rows[at];
          if (!row.exists) return;
          const float sink_log2 = sink(row.qo_head) * kLog2e;
          const float greatest = max(row.softmax.max, sink_log2);
          const float keep = greatest == -kInfinity ? 0.0f : std::exp2(row.softmax.max - greatest);
          const float sum = row.softmax.sum * keep + (sink_log2 == -kInfinity ? 0.0f : std::exp2(sink_log2 - greatest));
          const int64_t token = qo_begin + row.token;
          T* to = static_cast<T*>(params_.out) + token * params_.out_stride_token + row.qo_head * params_.out_stride_head;
          const float out_scale = params_.out_scale * params_.scales.of_output(row.qo_head / group_size_);
          tile::write_row<Isa>(to, out_of(at), problem_.head_dim_vo, sum > 0.0f ? keep / sum * out_scale : 0.0f);
          if (params_.lse)
            params_.lse[token * params_.lse_stride_token + row.qo_head * params_.lse_stride_head] =
                sum > 0.0f ? (greatest + std::log2(sum)) * params_.lse_factor : -kInfinity;
        });
      });
    });
  }

  const AttentionParams& params_;
  const AttentionPlan& plan_;
  const AttentionProblem& problem_;
  const IsaLevel isa_;
  AttentionScratch& scratch_;
  const int32_t group_size_;  // query heads of a KV head
  const int num_heads_;       // KV heads of an item
  const bool rotates_;
  bool pairs_;                         // a and b of the products are bf16 pairs
  int q_stride_, vo_stride_;           // numbers of a row of q (half of head_dim_qk in pairs) and of out
  int head_ = 0;                       // of the item, under way
  int num_rows_ = 0, block_rows_ = 0;  // of each head of the item, and with padding
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
    const int size = size_of(problem_.kv);
    const int64_t k_head = params_.kv.k_stride_head * size, v_head = params_.kv.v_stride_head * size;
    TileStream tiles(params_, problem_, worker, end_worker);
    KeyTile a, b;
    KeyTile *now = &a, *next = &b;
    for (bool more = tiles.next(*now); more; std::swap(now, next)) {
      more = tiles.next(*next);
      if (now->first) begin_item(*now);
      if (now->count > 0) {
        find_visible(*now);
        const int rows_ahead = more ? next->count : 0;
        tile::Ahead keys_ahead(next->k, rows_ahead, num_heads_, k_head, problem_.head_dim_qk * size);
        tile::Ahead values_ahead(next->v, rows_ahead, num_heads_, v_head, problem_.head_dim_vo * size);
        for (head_ = 0; head_ < num_heads_; ++head_) {
          if (head_ > 0) now->next_head(k_head, v_head);
          tiles.find_scales(*now, head_);
          score(*now, keys_ahead);
          accumulate(*now, transform(*now), values_ahead);
        }
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
          const TileRow& row = rows()[r];
          const float slope = variant.alibi_slopes ? variant.alibi_slopes[variant.qo_head_offset + row.qo_head] : 0.0f;
          tile::transform_row<decltype(isa)>(scratch_.scores + r * kKvTile, round_up(tile.count, decltype(isa)::kLanes), variant.sm_scale,
                                             slope, float(tile.begin - row.token), variant.soft_cap);
        }
      });
      if (!variant.custom_mask) return kLog2e;
    }
    for (int r = 0; r < num_rows_; ++r) {
      const TileRow& row = rows()[r];
      float* scores = scratch_.scores + r * kKvTile;
      LogitPosition at{tile.item.request,
                       row.token,
                       tile.qo_len,
                       tile.begin + row.visible.begin,
                       tile.kv_len,
                       row.qo_head,
                       tile.item.head * num_heads_ + head_};
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
  // Partial results lie in a workspace that plans share. A GPU's stream orders their launches; here threads may come at once.
  std::unique_lock<std::mutex> turn;
  if (params.plan.max_slots > 0) turn = std::unique_lock(detail::ThreadPool::instance().turn);
  parallel_for(params.plan.header->num_workers, 1, [&](int64_t begin, int64_t end) {
    thread_local detail::AttentionScratch scratch;
    detail::VariantThread<Variant>(params, problem, isa, scratch).run(int32_t(begin), int32_t(end));
  });
}

}  // namespace flashinfer::cpu
