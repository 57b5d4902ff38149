// A random batch for one config of an attention kernel, generic or decode: it runs emulated (emulation/emulator.hpp) and is held against
// a reference in double. Memory that a batch does not own holds NaN, page ids it does not own are wild.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <cpp_tests/gpu/emulation/emulator.hpp>

#include <flashinfer/attention/attention_plan_work.hpp>
#include <flashinfer/attention/gpu/attention_kernel.cuh>
#include <flashinfer/attention/gpu/attention_plan_kernel.cuh>
#include <flashinfer/attention/gpu/decode_kernel.cuh>

#include "cpp_tests/attention/reference.hpp"

namespace flashinfer {

struct BatchShape {
  int batch_size = 3, most_qo = 40, most_kv = 300, most_group = 5, least_kv = 0;
  int page_size = 16;
  bool causal = false, batch_invariant = false;
  int window_left = -1, cut_tiles = 1, max_workers = 7;
  float sm_scale = 0;         // 0: 1 / sqrt(head_dim)
  float value_spread = 0.5f;  // how far the scales of values are apart
};

template <AttentionConfig kConfig>
gpu::AttentionKernel<kConfig> kernel_of();
template <DecodeConfig kConfig>
gpu::DecodeKernel<kConfig> kernel_of();
constexpr int vo_tile_of(const AttentionConfig& c) { return c.vo_tile; }
constexpr int vo_tile_of(const DecodeConfig& c) { return c.head_dim_vo; }
/// What strides of keys and values are a multiple of, in elements.
constexpr int kv_granule(const AttentionConfig&) { return 8; }
constexpr unsigned cluster_blocks(const AttentionConfig&) { return 1; }
constexpr unsigned cluster_blocks(const DecodeConfig& c) { return unsigned(c.cluster_blocks); }
constexpr int kv_granule(const DecodeConfig& c) { return is_float8(c.kv) ? 16 : 8; }

template <auto kConfig>
class AttentionBatch {
  using Kernel = decltype(kernel_of<kConfig>());
  static constexpr int kVoTile = vo_tile_of(kConfig);
  static constexpr bool kRope = kConfig.variant_flags().rope;
  using Q = number_t<kConfig.q>;
  using Kv = number_t<kConfig.kv>;
  using Out = number_t<kConfig.out>;
  static constexpr double kTheta = 10000.0;

 public:
  AttentionParams params;

  AttentionBatch(const BatchShape& shape, uint32_t seed) : generator_(seed) {
    AttentionPlan& plan = params.plan;
    plan.batch_size = shape.batch_size;
    plan.num_kv_heads = draw(1, 2);
    plan.num_qo_heads = plan.num_kv_heads * draw(1, shape.most_group);
    plan.num_vo_tiles = ceil_div(kConfig.head_dim_vo, kVoTile);
    plan.q_tile = kConfig.q_tile, plan.kv_tile = kConfig.kv_tile;
    plan.page_size = kConfig.paged ? shape.page_size : 0;
    plan.max_workers = shape.max_workers;
    if (seed % 2 == 0 && plan.num_heads() <= plan.max_workers) plan.head_lanes = plan.num_heads();
    plan.batch_invariant = shape.batch_invariant, plan.cut_tiles = shape.cut_tiles;
    plan.causal = kConfig.limits && shape.causal, plan.window_left = kConfig.limits ? shape.window_left : -1;
    draw_lengths(shape);
    fill();
    draw_scales(shape);
    draw_variant(shape);
    make_plan();
  }

  void run(uint32_t seed) {
    constexpr unsigned kCluster = cluster_blocks(kConfig);
    unsigned grid = unsigned(params.plan.max_workers);
    if (kCluster > 1) grid = std::max(round_up(grid, kCluster), unsigned(params.plan.batch_size * params.plan.num_heads()) * kCluster);
    emulation::Block::run_grid(grid, Kernel::kThreads, size_t(gpu::smem_bytes(kConfig)), seed, [&] { run_thread(params); }, kCluster);
  }
  void (*run_thread)(const AttentionParams&) = Kernel::run;

  /// What a user's functor does to a logit; null: the built-in variant's formulas.
  double (*own_logit)(double x, int token, int key, int head) = nullptr;

  std::vector<uint8_t> bits() const {
    const auto* o = reinterpret_cast<const uint8_t*>(out_.data());
    const auto* l = reinterpret_cast<const uint8_t*>(lse_.data());
    std::vector<uint8_t> bytes(o, o + out_.size() * sizeof(Out));
    bytes.insert(bytes.end(), l, l + lse_.size() * sizeof(float));
    return bytes;
  }
  /// Of one request.
  std::vector<uint8_t> bits(int r) const {
    const auto* o = reinterpret_cast<const uint8_t*>(out_.data() + qo_indptr_[r] * params.out_stride_token);
    return {o, o + (qo_indptr_[r + 1] - qo_indptr_[r]) * params.out_stride_token * int64_t(sizeof(Out))};
  }
  /// Plans the first request alone.
  void keep_first_request() {
    params.plan.batch_size = 1;
    make_plan();
  }

  void check() const {
    const double bound = kConfig.out == DType::e4m3 ? 4e-2 : kConfig.q == DType::bf16 || kConfig.out == DType::bf16 ? 5e-3 : 7e-4;
    double error = 0, norm = 0;
    std::vector<bool> owned(out_.size());
    const AttentionPlan& plan = params.plan;
    for (int r = 0; r < plan.batch_size; ++r)
      for (int head = 0; head < plan.num_qo_heads; ++head)
        for (int token = 0; token < plan.qo_len(r); ++token) {
          const reference::Row row = expected(r, token, head);
          const int64_t at = (qo_indptr_[r] + token) * params.out_stride_token + head * params.out_stride_head;
          for (int i = 0; i < kConfig.head_dim_vo; ++i) {
            const double want = row.out[i] * params.out_scale, got = to_float(out_[at + i]);
            owned[at + i] = true;
            ASSERT_TRUE(std::isfinite(got)) << "request " << r << " token " << token << " head " << head << " element " << i;
            ASSERT_TRUE(row.lse != reference::kHidden || got == 0.0);
            error += (got - want) * (got - want), norm += want * want;
          }
          const float lse = lse_[(qo_indptr_[r] + token) * params.lse_stride_token + head * params.lse_stride_head];
          if (row.lse == reference::kHidden) {
            ASSERT_EQ(lse, -kInfinity);
          } else {
            const double want = row.lse / double(kLn2) * params.lse_factor;
            ASSERT_NEAR(lse, want, (kRope ? 5e-3 : 1e-5) * (4 + std::abs(want)))
                << "request " << r << " token " << token << " head " << head;
          }
        }
    EXPECT_LE(std::sqrt(error), bound * std::sqrt(norm));
    std::vector<uint8_t> untouched(sizeof(Out), 0xff);
    for (size_t i = 0; i < owned.size(); ++i)
      ASSERT_TRUE(owned[i] || std::memcmp(&out_[i], untouched.data(), sizeof(Out)) == 0) << "wrote element " << i << ", which is no output";
    for (int32_t counter : counters_) ASSERT_EQ(counter, 0) << "not ready for the next launch";
  }

 private:
  int draw(int low, int high) { return low + int(generator_() % uint32_t(high - low + 1)); }
  float normal() { return std::normal_distribution<float>()(generator_); }
  template <class T>
  static std::vector<T> poisoned(int64_t count) {
    std::vector<T> v(static_cast<size_t>(count));
    if (count > 0) std::memset(static_cast<void*>(v.data()), 0xff, v.size() * sizeof(T));
    return v;
  }

  void draw_lengths(const BatchShape& shape) {
    for (int r = 0; r < shape.batch_size; ++r) {
      const int qo_len = shape.most_qo == 1 ? 1 : draw(1, 8) == 1 ? 0 : draw(1, shape.most_qo);
      const int kv_len = shape.least_kv ? draw(shape.least_kv, shape.most_kv) : draw(1, 8) == 1 ? 0 : draw(1, shape.most_kv);
      qo_indptr_.push_back(qo_indptr_.back() + qo_len);
      kv_lens_.push_back(kv_len);
      kv_indptr_.push_back(kv_indptr_.back() + (params.plan.page_size ? ceil_div(kv_len, params.plan.page_size) : kv_len));
      last_page_len_.push_back(params.plan.page_size && kv_len ? (kv_len - 1) % params.plan.page_size + 1 : 1 << 20);
    }
  }

  void fill() {
    const AttentionPlan& plan = params.plan;
    auto strides = [&](int head_dim, int64_t& token, int64_t& head) {
      head = head_dim + 8 * draw(0, 2), token = head * plan.num_qo_heads + 8 * draw(0, 2);
    };
    strides(kConfig.head_dim_qk, params.q_stride_token, params.q_stride_head);
    strides(kConfig.head_dim_vo, params.out_stride_token, params.out_stride_head);
    params.total_qo_len = qo_indptr_.back();
    q_ = poisoned<Q>(params.q_stride_token * params.total_qo_len);
    out_ = poisoned<Out>(params.out_stride_token * params.total_qo_len);
    params.lse_stride_head = draw(1, 2), params.lse_stride_token = params.lse_stride_head * plan.num_qo_heads + draw(0, 1);
    lse_ = poisoned<float>(params.lse_stride_token * params.total_qo_len);
    for (int64_t t = 0; t < params.total_qo_len; ++t)
      for (int h = 0; h < plan.num_qo_heads; ++h)
        for (int i = 0; i < kConfig.head_dim_qk; ++i)
          q_[t * params.q_stride_token + h * params.q_stride_head + i] = from_float<Q>(normal());

    KvView& kv = params.kv;
    const int slots = max(plan.page_size, int32_t(1));
    kv.num_pages = kv_indptr_.back();
    if (plan.page_size) {
      for (int i = 0; i < kv.num_pages; ++i) indices_.push_back(i);
      std::shuffle(indices_.begin(), indices_.end(), generator_);
      kv.num_indices = int32_t(indices_.size());
      for (int i = 0; i < 4; ++i) indices_.push_back(1 << 30);
      kv.indices = indices_.data();
    }
    const bool head_major = draw(0, 1);
    auto pool = [&](auto& buffer, int head_dim, int64_t& page, int64_t& token, int64_t& head) {
      const int64_t row = head_dim + kv_granule(kConfig) * draw(0, 1), rows = plan.page_size ? slots : kv.num_pages;
      head = head_major ? row * rows : row, token = head_major ? row : row * plan.num_kv_heads;
      page = plan.page_size ? row * plan.num_kv_heads * slots + kv_granule(kConfig) * draw(0, 1) : 0;
      buffer = poisoned<Kv>(plan.page_size ? page * kv.num_pages : row * plan.num_kv_heads * kv.num_pages);
    };
    pool(k_, kConfig.head_dim_qk, kv.k_stride_page, kv.k_stride_token, kv.k_stride_head);
    pool(v_, kConfig.head_dim_vo, kv.v_stride_page, kv.v_stride_token, kv.v_stride_head);
    for (int r = 0; r < plan.batch_size; ++r)
      for (int h = 0; h < plan.num_kv_heads; ++h)
        for (int j = 0; j < kv_lens_[r]; ++j) {
          for (int i = 0; i < kConfig.head_dim_qk; ++i) k_[k_at(r, h, j) + i] = from_float<Kv>(normal());
          for (int i = 0; i < kConfig.head_dim_vo; ++i) v_[v_at(r, h, j) + i] = from_float<Kv>(normal());
        }
    params.q = q_.data(), params.out = out_.data(), params.lse = lse_.data();
    kv.k = k_.data(), kv.v = v_.data();
  }
  int64_t row_of(int r, int j, int64_t page_stride, int64_t token_stride) const {
    if (params.plan.page_size == 0) return (kv_indptr_[r] + j) * token_stride;
    return indices_[kv_indptr_[r] + j / params.plan.page_size] * page_stride + j % params.plan.page_size * token_stride;
  }
  int64_t k_at(int r, int h, int j) const {
    return row_of(r, j, params.kv.k_stride_page, params.kv.k_stride_token) + h * params.kv.k_stride_head;
  }
  int64_t v_at(int r, int h, int j) const {
    return row_of(r, j, params.kv.v_stride_page, params.kv.v_stride_token) + h * params.kv.v_stride_head;
  }

  /// Scales of tokens that no row sees are NaN, as those of no token.
  void draw_scales(const BatchShape& shape) {
    const AttentionPlan& plan = params.plan;
    AttentionScales& scales = params.scales;
    if (kConfig.head_scales) {
      auto of_heads = [&](std::vector<float>& buffer, int heads, const float*& data, int64_t& stride) {
        stride = draw(0, 3);
        buffer = poisoned<float>(heads * std::max(stride, int64_t(1)));
        for (int h = 0; h < heads; ++h) buffer[h * stride] = std::exp(0.5f * normal());
        if (draw(0, 3)) data = buffer.data();
      };
      of_heads(q_heads_, plan.num_qo_heads, scales.q_head, scales.q_head_stride);
      of_heads(k_heads_, plan.num_kv_heads, scales.k_head, scales.k_head_stride);
      of_heads(v_heads_, plan.num_kv_heads, scales.v_head, scales.v_head_stride);
    }
    if (kConfig.token_scales) {
      auto of_tokens = [&](float spread, std::vector<float>& buffer, const float*& data, int64_t& page, int64_t& token, int64_t& head) {
        const int slots = max(plan.page_size, int32_t(1));
        const bool head_major = draw(0, 1);
        head = head_major ? slots : draw(1, 2), token = head_major ? 1 : head * plan.num_kv_heads;
        page = (head_major ? head * plan.num_kv_heads : token * slots) + draw(0, 1);
        buffer = poisoned<float>(page * params.kv.num_pages);
        // A cache of small numbers, or of large ones. The generic kernel makes what a cache of q's 16 bits would hold of values.
        const bool any_size =
            kConfig.out == DType::bf16 && (kConfig.q == DType::bf16 || std::is_same_v<decltype(kConfig), const DecodeConfig>);
        const float unit = std::exp2(float(any_size ? draw(-30, 10) : draw(-4, 4)));
        for (int r = 0; r < plan.batch_size; ++r)
          for (int h = 0; h < plan.num_kv_heads; ++h)
            for (int j = shape.window_left < 0 || !kConfig.limits
                             ? 0
                             : max(kv_lens_[r] - (qo_indptr_[r + 1] - qo_indptr_[r]) - shape.window_left, 0);
                 j < kv_lens_[r]; ++j)
              buffer[scale_at(r, h, j, page, token, head)] = unit * std::exp(spread * normal());
        data = buffer.data();
        return unit;
      };
      const int which = draw(0, 3);
      float unit = 1.0f;
      if (which != 1) unit = of_tokens(0.5f, k_tokens_, scales.k, scales.k_stride_page, scales.k_stride_token, scales.k_stride_head);
      token_unit_ = unit;
      if (which != 2) of_tokens(shape.value_spread, v_tokens_, scales.v, scales.v_stride_page, scales.v_stride_token, scales.v_stride_head);
    }
  }
  int64_t scale_at(int r, int h, int j, int64_t page, int64_t token, int64_t head) const {
    return row_of(r, j, page, params.plan.page_size ? token : page) + h * head;
  }

  void draw_variant(const BatchShape& shape) {
    VariantParams& variant = params.variant;
    variant.sm_scale = (shape.sm_scale != 0 ? shape.sm_scale : 1.0f / std::sqrt(float(kConfig.head_dim_qk))) / token_unit_;
    variant.qo_head_offset = draw(0, 2);
    const int heads = params.plan.num_qo_heads + variant.qo_head_offset;
    if (kConfig.soft_cap) variant.soft_cap = 3.0f;
    for (int h = 0; h < heads; ++h) alibi_slopes_.push_back(std::exp2(-float(h + 1) / 2)), sinks_.push_back(normal() * 3);
    if (kConfig.alibi) variant.alibi_slopes = alibi_slopes_.data();
    if (kConfig.sinks) variant.sinks = sinks_.data();
    if (kRope) variant.rope_log2_theta = float(std::log2(kTheta)), variant.rope_rcp_scale = 0.5f;
    if (kConfig.custom_mask) {
      for (int r = 0; r < params.plan.batch_size; ++r) {
        const int bytes = ceil_div((qo_indptr_[r + 1] - qo_indptr_[r]) * kv_lens_[r], 8);
        mask_indptr_.push_back(mask_indptr_.back() + bytes);
        for (int i = 0; i < bytes; ++i) mask_.push_back(uint8_t(generator_() & generator_()));
      }
      mask_.push_back(0);
      variant.custom_mask = mask_.data(), variant.mask_indptr = mask_indptr_.data();
    }
    params.out_scale = draw(0, 1) ? 0.5f : 1.0f;
    params.lse_factor = draw(0, 1) ? kLn2 : 1.0f;
  }

  void make_plan() {
    AttentionPlan& plan = params.plan;
    plan.qo_indptr = qo_indptr_.data(), plan.kv_indptr = kv_indptr_.data(), plan.last_page_len = last_page_len_.data();
    plan.max_slots = 2 * plan.max_workers;
    if (plan.batch_invariant) {
      plan.max_slots = 0;
      for (int r = 0; r < plan.batch_size; ++r) plan.max_slots += int32_t(RequestWork(plan, r).total_slots(plan));
    }
    starts_.resize(plan.max_workers);
    counters_.assign(plan.max_slots, -1);
    partial_out_ = poisoned<float>(int64_t(plan.max_slots) * plan.q_tile * kVoTile);
    partial_states_.assign(int64_t(plan.max_slots) * plan.q_tile, {std::nanf(""), std::nanf("")});
    plan_work(plan, header_, starts_.data(), counters_.data());
    plan.header = &header_, plan.starts = starts_.data(), plan.counters = counters_.data();
    plan.partial_out = partial_out_.data(), plan.partial_states = partial_states_.data();
  }

  reference::Row expected(int r, int token, int head) const {
    const AttentionPlan& plan = params.plan;
    const VariantParams& variant = params.variant;
    const AttentionScales& scales = params.scales;
    const int kv_head = head / plan.group_size(), qo_len = plan.qo_len(r), kv_len = kv_lens_[r], position = kv_len - qo_len + token;
    auto turned = [&](auto&& raw, int i, int at) {
      return kRope ? reference::rotated(raw, i, kConfig.head_dim_qk, at, variant.rope_rcp_scale, kTheta) : double(raw(i));
    };
    std::vector<double> query(kConfig.head_dim_qk);
    auto raw_q = [&](int i) {
      return double(to_float(q_[(qo_indptr_[r] + token) * params.q_stride_token + head * params.q_stride_head + i]));
    };
    for (int i = 0; i < kConfig.head_dim_qk; ++i) query[i] = turned(raw_q, i, position);
    auto logit = [&](int j, const auto& dot) {
      if (plan.causal && j > position) return reference::kHidden;
      if (plan.window_left >= 0 && j < position - plan.window_left) return reference::kHidden;
      if (kConfig.custom_mask) {
        const int64_t bit = int64_t(token) * kv_len + j;
        if (!(mask_[mask_indptr_[r] + bit / 8] >> (bit % 8) & 1)) return reference::kHidden;
      }
      double x = dot() * variant.sm_scale;
      if (own_logit) return own_logit(x, token, j, head);
      if (kConfig.alibi) x += double(alibi_slopes_[variant.qo_head_offset + head]) * (j - token);
      if (kConfig.soft_cap) x = variant.soft_cap * std::tanh(x / variant.soft_cap);
      return x;
    };
    auto dot = [&](int j) {
      auto raw_k = [&](int i) { return double(to_float(k_[k_at(r, kv_head, j) + i])); };
      double sum = 0;
      for (int i = 0; i < kConfig.head_dim_qk; ++i) sum += query[i] * turned(raw_k, i, j);
      if (scales.k) sum *= scales.k[scale_at(r, kv_head, j, scales.k_stride_page, scales.k_stride_token, scales.k_stride_head)];
      return sum * scales.of_scores(head, kv_head);
    };
    auto value = [&](int j, int i) {
      double x = to_float(v_[v_at(r, kv_head, j) + i]);
      if (scales.v) x *= scales.v[scale_at(r, kv_head, j, scales.v_stride_page, scales.v_stride_token, scales.v_stride_head)];
      return x * scales.of_output(kv_head);
    };
    return reference::attention_row(kv_len, kConfig.head_dim_vo, dot, logit, value,
                                    kConfig.sinks ? sinks_[variant.qo_head_offset + head] : reference::kHidden);
  }

  std::mt19937 generator_;
  std::vector<int32_t> qo_indptr_{0}, kv_indptr_{0}, last_page_len_, indices_, kv_lens_, mask_indptr_{0}, counters_;
  std::vector<Q> q_;
  std::vector<Kv> k_, v_;
  std::vector<Out> out_;
  float token_unit_ = 1.0f;
  std::vector<float> q_heads_, k_heads_, v_heads_, k_tokens_, v_tokens_, lse_, alibi_slopes_, sinks_, partial_out_;
  std::vector<PartialState> partial_states_;
  std::vector<uint8_t> mask_;
  PlanHeader header_{};
  std::vector<WorkerStart> starts_;
};

/// Several random batches of one config.
template <auto kConfig>
void expect_attention(const BatchShape& shape, uint32_t first_seed, uint32_t seeds) {
  for (uint32_t seed = first_seed; seed < first_seed + seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    AttentionBatch<kConfig> batch(shape, seed);
    batch.run(seed);
    batch.check();
    if (testing::Test::HasFatalFailure()) return;
  }
}

/// Counters are ready for another launch, and neither launch's timing counts.
template <auto kConfig>
void expect_same_bits_whatever_the_order() {
  for (uint32_t seed = 140; seed < 143; ++seed) {
    AttentionBatch<kConfig> batch({.most_qo = 2, .causal = true, .max_workers = 40}, seed);
    batch.run(1);
    const auto first = batch.bits();
    batch.run(2);
    EXPECT_EQ(batch.bits(), first);
  }
}

/// A request alone gets what it gets among others.
template <auto kConfig>
void expect_batch_invariance() {
  for (uint32_t seed = 150; seed < 154; ++seed) {
    AttentionBatch<kConfig> batch({.most_qo = 20, .causal = true, .batch_invariant = true, .cut_tiles = int(seed % 3)}, seed);
    batch.run(seed);
    batch.check();
    const auto together = batch.bits(0);
    batch.keep_first_request();
    batch.run(seed);
    EXPECT_EQ(batch.bits(0), together);
  }
}

/// An address sanitizer would see it, and emulated copies of poisoned memory fault on wild pointers.
template <auto kConfig>
void expect_nothing_wild_read() {
  for (uint32_t seed = 160; seed < 168; ++seed) {
    AttentionBatch<kConfig> batch({.most_qo = 20, .most_kv = 60, .causal = seed % 2 == 0}, seed);
    std::mt19937 generator(seed);
    KvView& kv = batch.params.kv;
    std::vector<int32_t> indices(size_t(kv.num_indices));
    for (int32_t& i : indices) i = int32_t(generator());
    kv.indices = indices.data();
    kv.num_indices /= 2;
    batch.params.total_qo_len /= 2;
    batch.run(seed);
  }
}

}  // namespace flashinfer
