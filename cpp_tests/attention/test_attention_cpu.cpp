// CPU attention against a reference in double: random ragged batches over dtypes, layouts, pages, head dimensions, features,
// plans and instruction sets. Memory that a case does not own holds NaN: keys past the last, unused pages, gaps of strides,
// keys before every window, outputs.
#include <flashinfer/attention/attention_plan_work.hpp>
#include <flashinfer/attention/cpu/attention.hpp>

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpp_tests/attention/reference.hpp"

namespace flashinfer {
namespace {

/// Elements of any dtype, all NaN at first.
class Buffer {
 public:
  Buffer() = default;
  Buffer(DType dtype, int64_t count) : dtype_(dtype), bytes_(count * size_of(dtype), 0xff) {}
  void* data() { return bytes_.data(); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  void set(int64_t i, float x) {
    cpu::detail::visit_dtype(dtype_, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const T value = from_float<T>(x);
      std::memcpy(&bytes_[i * sizeof(T)], &value, sizeof(T));
    });
  }
  double get(int64_t i) const {
    double x = 0;
    cpu::detail::visit_dtype(dtype_, [&](auto* type) {
      std::remove_pointer_t<decltype(type)> value;
      std::memcpy(&value, &bytes_[i * sizeof(value)], sizeof(value));
      x = to_float(value);
    });
    return x;
  }
  /// Was element i never written?
  bool untouched(int64_t i) const {
    for (int64_t b = i * size_of(dtype_); b < (i + 1) * size_of(dtype_); ++b)
      if (bytes_[b] != 0xff) return false;
    return true;
  }

 private:
  DType dtype_ = DType::f32;
  std::vector<uint8_t> bytes_;
};

/// A random batch and all memory of a call.
struct Case {
  AttentionProblem problem;
  AttentionParams params;
  int batch_size = 0;
  std::vector<int32_t> qo_indptr{0}, kv_indptr{0}, last_page_len, indices, mask_indptr{0}, kv_lens;
  Buffer q, k, v, out;
  std::vector<float> lse, alibi_slopes, sinks;
  std::vector<uint8_t> mask;
  double theta = 10000.0;
  PlanHeader header{};
  std::vector<WorkerStart> starts;
  std::vector<int32_t> counters;
  std::vector<float> partial_out;
  std::vector<PartialState> partial_states;
  std::mt19937 generator;

  explicit Case(uint32_t seed) : generator(seed) {}

  int draw(int low, int high) { return low + int(generator() % uint32_t(high - low + 1)); }
  bool flip(int one_in) { return draw(1, one_in) == 1; }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[draw(0, int(values.size()) - 1)];
  }
  float normal() { return std::normal_distribution<float>()(generator); }

  void draw_problem() {
    problem.q = pick({DType::f32, DType::f16, DType::bf16, DType::bf16});
    problem.kv = flip(3) ? pick({DType::e4m3, DType::e5m2}) : problem.q;
    problem.out = flip(3) ? DType::f32 : problem.q;
    if (flip(10)) problem.q = pick({DType::e4m3, DType::e5m2});
    if (flip(10)) problem.out = pick({DType::e4m3, DType::e5m2});
    const bool many_heads = flip(6);  // more than one item holds
    problem.num_kv_heads = many_heads ? pick({12, 20, 40}) : draw(1, 4);
    problem.num_qo_heads = problem.num_kv_heads * (many_heads ? draw(1, 2) : pick({1, 1, 2, 3, 4, 5, 7, 8}));
    problem.head_dim_qk = flip(20) ? 8 * draw(17, 64) : 8 * draw(1, 17);
    problem.head_dim_vo = flip(2) ? problem.head_dim_qk : flip(20) ? 8 * draw(17, 64) : 8 * draw(1, 17);
    problem.page_size = flip(3) ? 0 : pick({1, 2, 3, 5, 8, 16, 16, 64, 100});
    problem.causal = draw(0, 1);
    problem.window_left = flip(3) ? draw(0, 150) : -1;
    problem.batch_invariant = flip(3);
    problem.cut_len = 64 * draw(0, 3);
  }

  /// Lengths; qo_len of 1 for all is decode.
  void draw_lengths(int most_qo, int most_kv) {
    batch_size = draw(0, 4);
    const bool decode = flip(3);
    for (int r = 0; r < batch_size; ++r) {
      const int kv_len = flip(8) ? 0 : flip(2) ? draw(1, most_kv) : draw(1, 20);
      const int qo_len = decode ? 1 : flip(8) ? 0 : flip(2) ? draw(1, most_qo) : draw(1, 3);
      add_request(qo_len, kv_len);
    }
  }
  void add_request(int qo_len, int kv_len) {
    problem.max_qo_len = max(problem.max_qo_len, qo_len);
    qo_indptr.push_back(qo_indptr.back() + qo_len);
    kv_lens.push_back(kv_len);
    const int page_size = problem.page_size;
    kv_indptr.push_back(kv_indptr.back() + (page_size ? ceil_div(kv_len, page_size) : kv_len));
    last_page_len.push_back(page_size && kv_len ? (kv_len - 1) % page_size + 1 : 0);
    batch_size = int(kv_lens.size());
  }

  void fill() {
    const int qo_heads = problem.num_qo_heads, kv_heads = problem.num_kv_heads;
    params.total_qo_len = qo_indptr.back();
    auto strides = [&](Buffer& buffer, DType dtype, int head_dim, int64_t& token, int64_t& head) {
      head = head_dim + 8 * draw(0, 2), token = head * qo_heads + 8 * draw(0, 2);
      buffer = Buffer(dtype, token * (params.total_qo_len + 1));
    };
    strides(q, problem.q, problem.head_dim_qk, params.q_stride_token, params.q_stride_head);
    strides(out, problem.out, problem.head_dim_vo, params.out_stride_token, params.out_stride_head);
    for (int64_t t = 0; t < params.total_qo_len; ++t)
      for (int h = 0; h < qo_heads; ++h)
        for (int i = 0; i < problem.head_dim_qk; ++i) q.set(t * params.q_stride_token + h * params.q_stride_head + i, normal());
    params.lse_stride_head = draw(1, 2), params.lse_stride_token = params.lse_stride_head * qo_heads + draw(0, 1);
    lse.assign(params.lse_stride_token * (params.total_qo_len + 1), std::nanf(""));

    // Pages in random order, one more than needed.
    KvView& kv = params.kv;
    const int slots = max(problem.page_size, int32_t(1));
    kv.num_pages = kv_indptr.back() + 1;
    if (problem.page_size) {
      for (int i = 0; i < kv.num_pages; ++i) indices.push_back(i);
      std::shuffle(indices.begin(), indices.end(), generator);
      indices.pop_back();
      kv.num_indices = int32_t(indices.size());
      kv.indices = indices.data();
    }
    const bool head_major = draw(0, 1);
    auto pool = [&](Buffer& buffer, int head_dim, int64_t& page, int64_t& token, int64_t& head) {
      const int64_t row = head_dim + 8 * draw(0, 1);
      if (problem.page_size == 0) {
        head = head_major ? row * kv.num_pages : row, token = head_major ? row : row * kv_heads, page = 0;
      } else {
        head = head_major ? row * slots : row, token = head_major ? row : row * kv_heads, page = row * kv_heads * slots + 8 * draw(0, 1);
      }
      buffer = Buffer(problem.kv, row * kv_heads * slots * kv.num_pages + page + 8 * kv.num_pages);
    };
    pool(k, problem.head_dim_qk, kv.k_stride_page, kv.k_stride_token, kv.k_stride_head);
    pool(v, problem.head_dim_vo, kv.v_stride_page, kv.v_stride_token, kv.v_stride_head);
    for (int r = 0; r < batch_size; ++r)
      for (int h = 0; h < kv_heads; ++h)
        for (int j = first_owned(r); j < kv_lens[r]; ++j) {
          for (int i = 0; i < problem.head_dim_qk; ++i) k.set(k_at(r, h, j) + i, normal());
          for (int i = 0; i < problem.head_dim_vo; ++i) v.set(v_at(r, h, j) + i, normal());
        }
  }

  /// Keys before it are outside every row's window: their memory may hold anything.
  int first_owned(int r) const {
    const int qo_len = qo_indptr[r + 1] - qo_indptr[r];
    if (problem.window_left < 0) return 0;
    return clamp(kv_lens[r] - qo_len - problem.window_left, 0, kv_lens[r]);
  }
  int64_t row_of(int r, int j, int64_t page_stride, int64_t token_stride) const {
    if (problem.page_size == 0) return (kv_indptr[r] + j) * token_stride;
    return indices[kv_indptr[r] + j / problem.page_size] * page_stride + j % problem.page_size * token_stride;
  }
  int64_t k_at(int r, int h, int j) const {
    return row_of(r, j, params.kv.k_stride_page, params.kv.k_stride_token) + h * params.kv.k_stride_head;
  }
  int64_t v_at(int r, int h, int j) const {
    return row_of(r, j, params.kv.v_stride_page, params.kv.v_stride_token) + h * params.kv.v_stride_head;
  }

  void draw_features() {
    VariantParams& variant = params.variant;
    variant.sm_scale = pick({1.0f, 2.0f, -0.5f}) / std::sqrt(float(problem.head_dim_qk));
    if (flip(4)) variant.soft_cap = pick({2.0f, 30.0f});
    if (flip(4)) {
      variant.qo_head_offset = draw(0, 2);
      for (int h = 0; h < problem.num_qo_heads + variant.qo_head_offset; ++h) alibi_slopes.push_back(std::exp2(-float(h + 1) / 2));
      variant.alibi_slopes = alibi_slopes.data();
    }
    if (flip(4)) {
      for (int h = 0; h < problem.num_qo_heads + variant.qo_head_offset; ++h) sinks.push_back(normal() * 3);
      variant.sinks = sinks.data();
    }
    if (flip(5)) {
      variant.rope_log2_theta = float(std::log2(theta));
      variant.rope_rcp_scale = pick({1.0f, 0.25f});
    }
    if (flip(4)) {
      problem.causal = 0;
      for (int r = 0; r < batch_size; ++r) {
        const int bits = (qo_indptr[r + 1] - qo_indptr[r]) * kv_lens[r];
        mask_indptr.push_back(mask_indptr.back() + ceil_div(bits, 8));
        for (int i = 0; i < ceil_div(bits, 8); ++i) mask.push_back(uint8_t(generator() | generator()));
      }
      mask.push_back(0);
      variant.custom_mask = mask.data();
      variant.mask_indptr = mask_indptr.data();
    }
    params.out_scale = pick({1.0f, 0.5f});
    params.lse_factor = pick({1.0f, kLn2});
  }

  /// Of heads and of tokens; what belongs to no token that a row sees is NaN, as in the cache.
  void draw_scales() {
    AttentionScales& scales = params.scales;
    auto of_heads = [&](int which, int heads, const float*& data, int64_t& stride) {
      if (!flip(4)) return;
      stride = draw(0, 2);
      scale_buffers[which].assign(heads * max(stride, int64_t(1)), std::nanf(""));
      for (int h = 0; h < heads; ++h) scale_buffers[which][h * stride] = std::exp(0.5f * normal());
      data = scale_buffers[which].data();
    };
    of_heads(0, problem.num_qo_heads, scales.q_head, scales.q_head_stride);
    of_heads(1, problem.num_kv_heads, scales.k_head, scales.k_head_stride);
    of_heads(2, problem.num_kv_heads, scales.v_head, scales.v_head_stride);
    auto of_tokens = [&](int which, const float*& data, int64_t& page, int64_t& token, int64_t& head) {
      if (!flip(4)) return;
      const int slots = max(problem.page_size, int32_t(1));
      const bool head_major = draw(0, 1);
      head = head_major ? slots : draw(1, 2), token = head_major ? 1 : head * problem.num_kv_heads;
      page = (head_major ? head * problem.num_kv_heads : token * slots) + draw(0, 1);
      scale_buffers[which].assign(page * params.kv.num_pages, std::nanf(""));
      for (int r = 0; r < batch_size; ++r)
        for (int h = 0; h < problem.num_kv_heads; ++h)
          for (int j = first_owned(r); j < kv_lens[r]; ++j)
            scale_buffers[which][scale_at(r, h, j, page, token, head)] = std::exp(0.5f * normal());
      data = scale_buffers[which].data();
    };
    of_tokens(3, scales.k, scales.k_stride_page, scales.k_stride_token, scales.k_stride_head);
    of_tokens(4, scales.v, scales.v_stride_page, scales.v_stride_token, scales.v_stride_head);
  }
  int64_t scale_at(int r, int h, int j, int64_t page, int64_t token, int64_t head) const {
    return row_of(r, j, page, problem.page_size ? token : page) + h * head;
  }
  std::vector<float> scale_buffers[5];

  void make_plan(int q_tile = 0) {
    AttentionPlan& plan = params.plan;
    const auto tiles = cpu::attention_tiles(problem);
    plan = {};
    plan.batch_size = batch_size;
    plan.num_qo_heads = problem.num_qo_heads, plan.num_kv_heads = problem.num_kv_heads / (q_tile ? 1 : tiles.heads_per_item);
    plan.num_vo_tiles = tiles.num_vo_tiles;
    plan.q_tile = q_tile ? q_tile : tiles.q_tile, plan.kv_tile = tiles.kv_tile;
    plan.page_size = problem.page_size;
    plan.max_workers = max_workers ? max_workers : tiles.max_workers;
    plan.min_units = max_workers ? 1 : tiles.min_units;
    plan.batch_invariant = problem.batch_invariant;
    plan.cut_tiles = problem.cut_len / tiles.kv_tile;
    plan.causal = params.variant.causal = problem.causal;
    plan.window_left = params.variant.window_left = problem.window_left;
    plan.qo_indptr = qo_indptr.data(), plan.kv_indptr = kv_indptr.data(), plan.last_page_len = last_page_len.data();
    plan.max_slots = 2 * plan.max_workers;
    if (plan.batch_invariant) {
      plan.max_slots = 0;
      for (int r = 0; r < batch_size; ++r) plan.max_slots += int32_t(RequestWork(plan, r).total_slots(plan));
    }
    starts.resize(plan.max_workers);
    counters.assign(plan.max_slots, -1);
    partial_out.assign(int64_t(plan.max_slots) * plan.q_tile * problem.head_dim_vo, std::nanf(""));
    partial_states.assign(int64_t(plan.max_slots) * plan.q_tile, {std::nanf(""), std::nanf("")});
    plan_work(plan, header, starts.data(), counters.data());
    plan.header = &header, plan.starts = starts.data(), plan.counters = counters.data();
    plan.partial_out = partial_out.data(), plan.partial_states = partial_states.data();
    params.kv.k = k.data(), params.kv.v = v.data();
    params.q = q.data(), params.out = out.data(), params.lse = lse.data();
  }
  int max_workers = 0;

  static Case random(uint32_t seed) {
    Case c(seed);
    c.draw_problem();
    c.draw_lengths(40, 300);
    c.draw_features();
    c.fill();
    c.draw_scales();
    c.max_workers = c.pick({0, 0, 1, 2, 7, 40});
    c.make_plan();
    return c;
  }

  double expected_logit(int r, int token, int head, int j, const auto& dot) const {
    const VariantParams& variant = params.variant;
    const int qo_len = qo_indptr[r + 1] - qo_indptr[r], position = kv_lens[r] - qo_len + token;
    if (problem.causal && j > position) return reference::kHidden;
    if (problem.window_left >= 0 && j < position - problem.window_left) return reference::kHidden;
    if (variant.custom_mask) {
      const int64_t bit = int64_t(token) * kv_lens[r] + j;
      if (!(mask[mask_indptr[r] + bit / 8] >> (bit % 8) & 1)) return reference::kHidden;
    }
    double x = dot() * variant.sm_scale;
    if (variant.alibi_slopes) x += double(alibi_slopes[variant.qo_head_offset + head]) * (j - token);
    if (variant.soft_cap > 0) x = variant.soft_cap * std::tanh(x / variant.soft_cap);
    return x;
  }

  /// Keys (rotated, if the case rotates) and values of one KV head of a request, [kv_len, head_dim], times their scales.
  struct Head {
    std::vector<double> k, v;
  };
  Head head_of(int r, int kv_head) const {
    Head head;
    for (int j = 0; j < kv_lens[r]; ++j) {
      const AttentionScales& s = params.scales;
      append_rotated(head.k, k, k_at(r, kv_head, j), j);
      const double of_key = s.k ? s.k[scale_at(r, kv_head, j, s.k_stride_page, s.k_stride_token, s.k_stride_head)] : 1.0;
      const double of_value = s.v ? s.v[scale_at(r, kv_head, j, s.v_stride_page, s.v_stride_token, s.v_stride_head)] : 1.0;
      for (size_t i = head.k.size() - problem.head_dim_qk; i < head.k.size(); ++i) head.k[i] *= of_key;
      for (int i = 0; i < problem.head_dim_vo; ++i) head.v.push_back(v.get(v_at(r, kv_head, j) + i) * of_value * s.of_output(kv_head));
    }
    return head;
  }
  void append_rotated(std::vector<double>& to, const Buffer& from, int64_t at, int position) const {
    const VariantParams& variant = params.variant;
    auto raw = [&](int i) { return from.get(at + i); };
    for (int i = 0; i < problem.head_dim_qk; ++i)
      to.push_back(variant.rope_log2_theta > 0 ? reference::rotated(raw, i, problem.head_dim_qk, position, variant.rope_rcp_scale, theta)
                                               : raw(i));
  }

  reference::Row expected(int r, int token, int head, const Head& keys) const {
    const int dim = problem.head_dim_qk, dim_vo = problem.head_dim_vo, qo_len = qo_indptr[r + 1] - qo_indptr[r];
    std::vector<double> query;
    append_rotated(query, q, (qo_indptr[r] + token) * params.q_stride_token + head * params.q_stride_head, kv_lens[r] - qo_len + token);
    auto dot = [&](int j) {
      double sum = 0;
      for (int i = 0; i < dim; ++i) sum += query[i] * keys.k[int64_t(j) * dim + i];
      return sum * params.scales.of_scores(head, head / (problem.num_qo_heads / problem.num_kv_heads));
    };
    return reference::attention_row(
        kv_lens[r], dim_vo, dot, [&](int j, const auto& product) { return expected_logit(r, token, head, j, product); },
        [&](int j, int i) { return keys.v[int64_t(j) * dim_vo + i]; },
        params.variant.sinks ? sinks[params.variant.qo_head_offset + head] : reference::kHidden);
  }

  /// Every output against the reference, everything around them untouched.
  void check() const {
    const double bound = problem.out == DType::e5m2   ? 1e-1
                         : problem.out == DType::e4m3 ? 5e-2
                         : problem.out == DType::bf16 ? 5e-3
                         : problem.out == DType::f16  ? 7e-4
                                                      : 1e-5;
    double error = 0, norm = 0;
    std::vector<bool> owned(out.bytes().size() / size_of(problem.out)), owned_lse(lse.size());
    for (int r = 0; r < batch_size; ++r)
      for (int head = 0; head < problem.num_qo_heads; ++head) {
        const Head keys = head_of(r, head / (problem.num_qo_heads / problem.num_kv_heads));
        for (int token = 0; token < qo_indptr[r + 1] - qo_indptr[r]; ++token) {
          const reference::Row row = expected(r, token, head, keys);
          const int64_t at = (qo_indptr[r] + token) * params.out_stride_token + head * params.out_stride_head;
          for (int i = 0; i < problem.head_dim_vo; ++i) {
            const double want = row.out[i] * params.out_scale, got = out.get(at + i);
            owned[at + i] = true;
            ASSERT_TRUE(std::isfinite(got)) << "request " << r << " token " << token << " head " << head << " element " << i;
            ASSERT_TRUE(row.lse != reference::kHidden || got == 0.0);
            error += (got - want) * (got - want), norm += want * want;
          }
          const int64_t lse_at = (qo_indptr[r] + token) * params.lse_stride_token + head * params.lse_stride_head;
          owned_lse[lse_at] = true;
          const double want = row.lse / double(kLn2) * params.lse_factor;
          if (row.lse == reference::kHidden) {
            ASSERT_EQ(lse[lse_at], -kInfinity);
          } else {
            ASSERT_NEAR(lse[lse_at], want, 1e-5 * (4 + std::abs(want))) << "request " << r << " token " << token << " head " << head;
          }
        }
      }
    EXPECT_LE(std::sqrt(error), bound * std::sqrt(norm));
    for (size_t i = 0; i < owned.size(); ++i)
      ASSERT_TRUE(owned[i] || out.untouched(int64_t(i))) << "wrote element " << i << ", which is no output";
    for (size_t i = 0; i < lse.size(); ++i) ASSERT_TRUE(owned_lse[i] || std::isnan(lse[i]));
    for (int32_t counter : counters) ASSERT_EQ(counter, 0);
  }

  std::string describe() const {
    const auto& p = problem;
    const auto& variant = params.variant;
    return std::string("q ") + name_of(p.q) + " kv " + name_of(p.kv) + " out " + name_of(p.out) + " heads " +
           std::to_string(p.num_qo_heads) + "/" + std::to_string(p.num_kv_heads) + " dims " + std::to_string(p.head_dim_qk) + "/" +
           std::to_string(p.head_dim_vo) + " page " + std::to_string(p.page_size) + " causal " + std::to_string(p.causal) + " window " +
           std::to_string(p.window_left) + " invariant " + std::to_string(p.batch_invariant) + " cut " + std::to_string(p.cut_len) +
           " workers " + std::to_string(header.num_workers) + " cap " + std::to_string(variant.soft_cap) +
           (params.scales.any_of_heads() ? " scales of heads" : "") + (params.scales.any_of_tokens() ? " scales of tokens" : "") +
           (variant.alibi_slopes ? " alibi" : "") + (variant.custom_mask ? " mask" : "") + (variant.sinks ? " sinks" : "") +
           (variant.rope_log2_theta > 0 ? " rope" : "");
  }
};

std::vector<cpu::IsaLevel> levels() {
  std::vector<cpu::IsaLevel> found;
  for (cpu::IsaLevel level : {cpu::IsaLevel::baseline, cpu::IsaLevel::avx2, cpu::IsaLevel::avx512, cpu::IsaLevel::avx512_bf16})
    if (level <= cpu::best_isa()) found.push_back(level);
  return found;
}

class AttentionCpu : public testing::TestWithParam<cpu::IsaLevel> {};
INSTANTIATE_TEST_SUITE_P(Isa, AttentionCpu, testing::ValuesIn(levels()), [](const auto& test) { return std::string(name_of(test.param)); });

TEST_P(AttentionCpu, RandomBatches) {
  for (uint32_t seed = 0; seed < 150; ++seed) {
    Case c = Case::random(seed * 4 + uint32_t(GetParam()));
    SCOPED_TRACE("seed " + std::to_string(seed) + ": " + c.describe());
    cpu::attention(c.params, c.problem, GetParam());
    c.check();
    if (testing::Test::HasFatalFailure()) return;
  }
}

/// The bits of the outputs of a call.
std::vector<uint8_t> outputs(Case& c, cpu::IsaLevel isa) {
  cpu::attention(c.params, c.problem, isa);
  std::vector<uint8_t> bytes = c.out.bytes();
  const auto* lse = reinterpret_cast<const uint8_t*>(c.lse.data());
  bytes.insert(bytes.end(), lse, lse + c.lse.size() * sizeof(float));
  return bytes;
}

TEST_P(AttentionCpu, SameBitsOnOneThreadAndAgain) {
  for (uint32_t seed = 1000; seed < 1040; ++seed) {
    Case c = Case::random(seed);
    const auto many = outputs(c, GetParam());
    EXPECT_EQ(outputs(c, GetParam()), many) << "seed " << seed;  // counters are ready for another launch
    cpu::parallel_for(2, 1, [&](int64_t begin, int64_t) {        // inside a chunk, everything runs on this thread
      if (begin == 0) {
        EXPECT_EQ(outputs(c, GetParam()), many) << "seed " << seed;
      }
    });
  }
}

/// A request gives the same bits alone, in a batch, and among longer queries that make the planner take larger tiles.
TEST_P(AttentionCpu, BatchInvariant) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    Case c(seed);
    c.draw_problem();
    c.problem.batch_invariant = 1;
    c.add_request(c.draw(1, 4), c.draw(1, 400));
    c.add_request(c.draw(1, 40), c.draw(1, 400));
    c.draw_features();
    c.fill();
    c.draw_scales();
    c.make_plan();
    const auto together = outputs(c, GetParam());
    const int64_t size = int64_t(c.qo_indptr[1]) * c.params.out_stride_token * size_of(c.problem.out);
    for (int q_tile : {4, 12, 64, 128}) {
      std::fill_n(static_cast<uint8_t*>(c.out.data()), size, uint8_t(0xff));
      c.batch_size = 1;
      c.make_plan(q_tile);
      const auto alone = outputs(c, GetParam());
      EXPECT_TRUE(std::equal(alone.begin(), alone.begin() + size, together.begin())) << "seed " << seed << " q_tile " << q_tile;
    }
  }
}

TEST_P(AttentionCpu, UniformLengthsWithoutIndptr) {
  Case c(5);
  c.problem.page_size = 0, c.problem.causal = 1;
  c.problem.num_qo_heads = 4, c.problem.num_kv_heads = 2;
  for (int r = 0; r < 3; ++r) c.add_request(9, 77);
  c.fill();
  c.params.variant.sm_scale = 0.1f;
  c.make_plan();
  AttentionPlan& plan = c.params.plan;
  plan.qo_indptr = plan.kv_indptr = nullptr;
  plan.uniform_qo_len = 9, plan.uniform_kv_len = 77;
  cpu::attention(c.params, c.problem, GetParam());
  c.check();
}

/// Indices and lengths that point outside: nothing is read or written there (the sanitizer watches), the rest is right.
TEST_P(AttentionCpu, StaysInsideItsMemory) {
  Case c(6);
  c.problem.page_size = 16;
  c.problem.num_qo_heads = 4, c.problem.num_kv_heads = 2;
  c.add_request(3, 50);
  c.add_request(2, 200);
  c.fill();
  c.params.kv.num_indices -= 3;
  c.indices[c.kv_indptr[1] + 1] = 1 << 30;
  c.indices[c.kv_indptr[1] + 2] = -5;
  c.params.total_qo_len = 4;
  c.make_plan();
  cpu::attention(c.params, c.problem, GetParam());
  for (int token = 0; token < 3; ++token)
    for (int head = 0; head < 4; ++head) {
      const auto row = c.expected(0, token, head, c.head_of(0, head / 2));
      for (int i = 0; i < c.problem.head_dim_vo; ++i)
        EXPECT_NEAR(c.out.get(token * c.params.out_stride_token + head * c.params.out_stride_head + i), row.out[i], 0.02);
    }
  for (int64_t i = 4 * c.params.out_stride_token; i < int64_t(c.out.bytes().size()) / 2; ++i) EXPECT_TRUE(c.out.untouched(i));
}

/// Logits halved and even keys hidden, with the sink of the built-in variant.
struct OddKeys {
  static constexpr bool kTransformsLogits = true, kMasks = true;
  static float logit(const VariantParams&, float x, const LogitPosition& at) { return 0.5f * x + 0.01f * float(at.kv_idx - at.qo_head); }
  static bool visible(const VariantParams&, const LogitPosition& at) { return at.kv_idx % 2 == 1; }
  static float sink(const VariantParams&, int32_t qo_head) { return float(qo_head); }
};
static_assert(AttentionVariant<OddKeys>);

TEST_P(AttentionCpu, OwnVariant) {
  Case c(7);
  c.problem.q = c.problem.kv = DType::f16, c.problem.out = DType::f32;
  c.problem.num_qo_heads = 6, c.problem.num_kv_heads = 2, c.problem.causal = 1;
  c.add_request(5, 130);
  c.add_request(1, 1);
  c.fill();
  c.params.variant.sm_scale = 0.2f;
  c.make_plan();
  cpu::attention<OddKeys>(c.params, c.problem, GetParam());
  for (int r = 0; r < 2; ++r)
    for (int token = 0; token < c.qo_indptr[r + 1] - c.qo_indptr[r]; ++token)
      for (int head = 0; head < 6; ++head) {
        const int qo_len = c.qo_indptr[r + 1] - c.qo_indptr[r];
        const int64_t q_row = (c.qo_indptr[r] + token) * c.params.q_stride_token + head * c.params.q_stride_head;
        auto dot = [&](int j) {
          double sum = 0;
          for (int i = 0; i < 128; ++i) sum += c.q.get(q_row + i) * c.k.get(c.k_at(r, head / 3, j) + i);
          return sum;
        };
        auto logit = [&](int j, const auto& product) {
          return j % 2 == 0 || j > c.kv_lens[r] - qo_len + token ? reference::kHidden : 0.5 * 0.2f * product() + 0.01 * (j - head);
        };
        const auto row = reference::attention_row(
            c.kv_lens[r], 128, dot, logit, [&](int j, int i) { return c.v.get(c.v_at(r, head / 3, j) + i); }, head);
        for (int i = 0; i < 128; ++i)
          EXPECT_NEAR(c.out.get((c.qo_indptr[r] + token) * c.params.out_stride_token + head * c.params.out_stride_head + i), row.out[i],
                      1e-5);
      }
}

}  // namespace
}  // namespace flashinfer
