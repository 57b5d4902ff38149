// The generic attention kernel, emulated: every loading path, tile shape and variant, on random batches with random splits.
#include "cpp_tests/gpu/attention_batch.hpp"

namespace flashinfer {
namespace {

// Warps that share the rows, a ring of three stages.
constexpr AttentionConfig kDecode = {
    .head_dim_qk = 64, .head_dim_vo = 64, .q_tile = 16, .kv_tile = 64, .vo_tile = 64, .warps_q = 1, .warps_kv = 4, .num_stages = 3};
// Warps that share the keys.
constexpr AttentionConfig kAppend = {
    .q = DType::f16, .kv = DType::f16, .out = DType::f16, .head_dim_qk = 32, .head_dim_vo = 32, .kv_tile = 32, .vo_tile = 32};

TEST(AttentionKernel, Decode) {
  expect_attention<kDecode>({.most_qo = 1, .causal = true}, 0, 4);
  expect_attention<kDecode>({.most_qo = 1, .most_group = 16, .max_workers = 40}, 4, 2);
  expect_attention<kDecode>({.most_qo = 4, .page_size = 1, .causal = true, .window_left = 20}, 6, 4);
  expect_attention<kDecode>({.most_qo = 30, .page_size = 3, .window_left = 0}, 10, 2);
}

TEST(AttentionKernel, Append) {
  expect_attention<kAppend>({.causal = true}, 20, 4);
  expect_attention<kAppend>({.page_size = 5, .causal = true, .window_left = 50, .max_workers = 40}, 24, 4);
  expect_attention<kAppend>({.window_left = 7}, 28, 2);
  // The factor is folded into the softmax when it is positive only.
  expect_attention<kAppend>({.causal = true, .sm_scale = -0.3f}, 30, 2);
}

TEST(AttentionKernel, PrefillHas32RowsAWarp) {
  constexpr AttentionConfig kConfig = {.head_dim_qk = 48, .head_dim_vo = 32, .q_tile = 128, .kv_tile = 64, .vo_tile = 32, .paged = false};
  expect_attention<kConfig>({.most_qo = 90, .causal = true}, 40, 3);
  expect_attention<kConfig>({.most_qo = 200, .most_kv = 200, .most_group = 1, .causal = true, .max_workers = 3}, 43, 2);
}

TEST(AttentionKernel, EightWarpsOneStage) {
  constexpr AttentionConfig kConfig = {.q = DType::f16,
                                       .kv = DType::f16,
                                       .out = DType::f32,
                                       .head_dim_qk = 16,
                                       .head_dim_vo = 176,
                                       .q_tile = 128,
                                       .kv_tile = 16,
                                       .vo_tile = 176,
                                       .warps_q = 8,
                                       .num_stages = 1,
                                       .limits = false};
  expect_attention<kConfig>({.most_qo = 60, .most_kv = 100}, 50, 3);
}

TEST(AttentionKernel, ScalesOfHeads) {
  constexpr AttentionConfig k16 = {
      .head_dim_qk = 64, .head_dim_vo = 72, .q_tile = 16, .kv_tile = 64, .vo_tile = 32, .warps_q = 1, .warps_kv = 4, .head_scales = true};
  expect_attention<k16>({.most_qo = 3, .causal = true, .max_workers = 20}, 300, 3);
  constexpr AttentionConfig kE4m3 = {.q = DType::e4m3,
                                     .kv = DType::e4m3,
                                     .head_dim_qk = 32,
                                     .head_dim_vo = 32,
                                     .q_tile = 128,
                                     .vo_tile = 32,
                                     .soft_cap = true,
                                     .sinks = true,
                                     .head_scales = true};
  expect_attention<kE4m3>({.most_qo = 90, .causal = true}, 303, 3);
}

TEST(AttentionKernel, ScalesOfTokens) {
  constexpr AttentionConfig kDecode = {.kv = DType::e4m3,
                                       .head_dim_qk = 64,
                                       .head_dim_vo = 72,
                                       .q_tile = 16,
                                       .kv_tile = 128,
                                       .vo_tile = 48,
                                       .warps_q = 1,
                                       .warps_kv = 4,
                                       .num_stages = 1,
                                       .token_scales = true};
  for (int page_size : {1, 16})
    expect_attention<kDecode>({.most_qo = 3, .most_kv = 700, .page_size = page_size, .causal = true}, 310 + uint32_t(page_size), 3);
  constexpr AttentionConfig kPrefill = {.kv = DType::e5m2,
                                        .head_dim_qk = 48,
                                        .head_dim_vo = 32,
                                        .q_tile = 128,
                                        .kv_tile = 32,
                                        .vo_tile = 32,
                                        .num_stages = 2,
                                        .rope = true,
                                        .head_scales = true,
                                        .token_scales = true};
  expect_attention<kPrefill>({.most_qo = 60, .page_size = 3, .causal = true, .window_left = 30, .max_workers = 20}, 330, 4);
  constexpr AttentionConfig kRagged = {.q = DType::f16,
                                       .kv = DType::e4m3,
                                       .out = DType::f16,
                                       .head_dim_qk = 32,
                                       .head_dim_vo = 32,
                                       .kv_tile = 32,
                                       .vo_tile = 32,
                                       .num_stages = 1,
                                       .paged = false,
                                       .limits = false,
                                       .alibi = true,
                                       .custom_mask = true,
                                       .token_scales = true};
  expect_attention<kRagged>({}, 340, 4);
}

TEST(AttentionKernel, OddHeadDimensions) {
  constexpr AttentionConfig kQ16 = {.q = DType::f16,
                                    .kv = DType::f16,
                                    .out = DType::f16,
                                    .head_dim_qk = 72,
                                    .head_dim_vo = 24,
                                    .q_tile = 16,
                                    .kv_tile = 32,
                                    .vo_tile = 24,
                                    .warps_q = 1,
                                    .warps_kv = 2,
                                    .num_stages = 2};
  expect_attention<kQ16>({.most_qo = 3, .causal = true}, 60, 3);
  constexpr AttentionConfig kQ64 = {
      .head_dim_qk = 8, .head_dim_vo = 40, .kv_tile = 48, .vo_tile = 40, .num_stages = 4, .paged = false, .limits = false};
  expect_attention<kQ64>({.most_qo = 30}, 63, 3);
}

TEST(AttentionKernel, OutputInParts) {
  constexpr AttentionConfig kConfig = {
      .head_dim_qk = 32, .head_dim_vo = 72, .q_tile = 16, .kv_tile = 64, .vo_tile = 32, .warps_q = 1, .warps_kv = 4};
  expect_attention<kConfig>({.most_qo = 5, .causal = true}, 70, 4);
}

TEST(AttentionKernel, Float8Cache) {
  constexpr AttentionConfig kDecode8 = {.kv = DType::e4m3,
                                        .head_dim_qk = 64,
                                        .head_dim_vo = 64,
                                        .q_tile = 16,
                                        .kv_tile = 128,
                                        .vo_tile = 64,
                                        .warps_q = 1,
                                        .warps_kv = 4,
                                        .num_stages = 1};
  expect_attention<kDecode8>({.most_qo = 2, .causal = true}, 80, 3);
  constexpr AttentionConfig kAppend8 = {.q = DType::f16,
                                        .kv = DType::e5m2,
                                        .out = DType::f16,
                                        .head_dim_qk = 40,
                                        .head_dim_vo = 64,
                                        .kv_tile = 64,
                                        .vo_tile = 64,
                                        .num_stages = 1,
                                        .sinks = true};
  expect_attention<kAppend8>({.most_qo = 30, .causal = true}, 83, 3);
  constexpr AttentionConfig kAll8 = {.q = DType::e4m3,
                                     .kv = DType::e4m3,
                                     .out = DType::e4m3,
                                     .head_dim_qk = 32,
                                     .head_dim_vo = 32,
                                     .kv_tile = 32,
                                     .vo_tile = 32,
                                     .num_stages = 1,
                                     .paged = false};
  expect_attention<kAll8>({.most_qo = 30}, 86, 2);
  // Too large to be held in registers: moved in parts.
  constexpr AttentionConfig kLarge8 = {.kv = DType::e4m3,
                                       .head_dim_qk = 512,
                                       .head_dim_vo = 64,
                                       .q_tile = 16,
                                       .kv_tile = 16,
                                       .vo_tile = 64,
                                       .warps_q = 1,
                                       .warps_kv = 1,
                                       .num_stages = 1};
  expect_attention<kLarge8>({.batch_size = 1, .most_qo = 3, .most_kv = 100, .causal = true}, 88, 2);
}

TEST(AttentionKernel, CustomMask) {
  constexpr AttentionConfig kConfig = {.q = DType::f16,
                                       .kv = DType::f16,
                                       .out = DType::f16,
                                       .head_dim_qk = 32,
                                       .head_dim_vo = 32,
                                       .kv_tile = 32,
                                       .vo_tile = 32,
                                       .limits = false,
                                       .custom_mask = true};
  expect_attention<kConfig>({.most_qo = 30}, 90, 3);
  constexpr AttentionConfig kWindow = {.head_dim_qk = 16,
                                       .head_dim_vo = 16,
                                       .q_tile = 16,
                                       .kv_tile = 64,
                                       .vo_tile = 16,
                                       .warps_q = 1,
                                       .warps_kv = 4,
                                       .custom_mask = true,
                                       .sinks = true};
  expect_attention<kWindow>({.most_qo = 6, .window_left = 30}, 93, 3);
}

TEST(AttentionKernel, SoftCapAndAlibi) {
  constexpr AttentionConfig kConfig = {.q = DType::f16,
                                       .kv = DType::f16,
                                       .out = DType::f32,
                                       .head_dim_qk = 32,
                                       .head_dim_vo = 32,
                                       .q_tile = 128,
                                       .kv_tile = 32,
                                       .vo_tile = 32,
                                       .soft_cap = true,
                                       .alibi = true};
  expect_attention<kConfig>({.causal = true}, 100, 3);
}

TEST(AttentionKernel, Rope) {
  constexpr AttentionConfig kDecodeRope = {.q = DType::f16,
                                           .kv = DType::f16,
                                           .out = DType::f16,
                                           .head_dim_qk = 40,
                                           .head_dim_vo = 32,
                                           .q_tile = 16,
                                           .kv_tile = 64,
                                           .vo_tile = 32,
                                           .warps_q = 1,
                                           .warps_kv = 4,
                                           .num_stages = 2,
                                           .rope = true};
  expect_attention<kDecodeRope>({.most_qo = 3, .causal = true}, 110, 3);
  constexpr AttentionConfig kAppendRope = {
      .kv = DType::e4m3, .head_dim_qk = 64, .head_dim_vo = 64, .kv_tile = 32, .vo_tile = 64, .num_stages = 1, .rope = true};
  expect_attention<kAppendRope>({.most_qo = 30, .causal = true}, 113, 2);
}

TEST(AttentionKernel, EverythingAtOnce) {
  constexpr AttentionConfig kConfig = {.q = DType::f16,
                                       .kv = DType::f16,
                                       .out = DType::f16,
                                       .head_dim_qk = 16,
                                       .head_dim_vo = 16,
                                       .q_tile = 16,
                                       .kv_tile = 16,
                                       .vo_tile = 16,
                                       .warps_q = 1,
                                       .warps_kv = 1,
                                       .num_stages = 2,
                                       .soft_cap = true,
                                       .alibi = true,
                                       .custom_mask = true,
                                       .sinks = true,
                                       .rope = true};
  expect_attention<kConfig>({.most_qo = 6, .window_left = 60}, 120, 4);
}

/// A functor of a user: every third key is hidden, logits grow with the head.
struct EveryThird {
  static constexpr bool kTransformsLogits = true, kMasks = true;
  static float logit(const VariantParams&, float x, const LogitPosition& at) { return x + 0.1f * float(at.qo_head); }
  static bool visible(const VariantParams&, const LogitPosition& at) { return at.kv_idx % 3 != 2; }
  static float sink(const VariantParams&, int32_t) { return -kInfinity; }
};

TEST(AttentionKernel, UserFunctor) {
  for (uint32_t seed = 130; seed < 133; ++seed) {
    AttentionBatch<kAppend> batch({.most_qo = 20, .causal = true}, seed);
    batch.run_thread = gpu::AttentionKernel<kAppend, EveryThird>::run;
    batch.own_logit = [](double x, int, int key, int head) { return key % 3 == 2 ? reference::kHidden : x + 0.1 * head; };
    batch.run(seed);
    batch.check();
  }
}

TEST(AttentionKernel, SameBitsWhateverTheOrder) { expect_same_bits_whatever_the_order<kDecode>(); }
TEST(AttentionKernel, BatchInvariant) { expect_batch_invariance<kAppend>(); }
TEST(AttentionKernel, WildLengthsReadNothingWild) { expect_nothing_wild_read<kAppend>(); }

/// The block that plans on the device gives what plan_work() gives.
template <gpu::AttentionPlanConfig kConfig>
void expect_same_as_plan_work() {
  std::mt19937 generator(7);
  auto draw = [&](int low, int high) { return low + int(generator() % uint32_t(high - low + 1)); };
  for (int round = 0; round < 60; ++round) {
    AttentionPlan plan;
    plan.batch_size = round < 50 ? draw(0, 80) : draw(400, 5000);
    plan.num_kv_heads = draw(1, 3), plan.num_qo_heads = plan.num_kv_heads * draw(1, 5), plan.num_vo_tiles = draw(1, 2);
    plan.q_tile = 16, plan.kv_tile = 32, plan.page_size = draw(0, 3);
    plan.max_workers = draw(1, 300), plan.min_units = draw(1, 3), plan.item_units = draw(0, 3), plan.max_slots = 2 * plan.max_workers;
    plan.batch_invariant = draw(0, 1), plan.cut_tiles = draw(0, 2), plan.causal = draw(0, 1),
    plan.window_left = draw(0, 1) ? draw(0, 90) : -1;
    if (plan.num_heads() <= plan.max_workers && draw(0, 1)) plan.head_lanes = plan.num_heads();
    std::vector<int32_t> qo_indptr{0}, kv_indptr{0}, last_page_len;
    const int most_qo = round % 3 ? 3 : 200;
    for (int r = 0; r < plan.batch_size; ++r) {
      qo_indptr.push_back(qo_indptr.back() + draw(0, most_qo));
      kv_indptr.push_back(kv_indptr.back() + (draw(0, 4) ? draw(0, 200) : 0));
      last_page_len.push_back(draw(1, max(plan.page_size, int32_t(1))));
    }
    plan.qo_indptr = qo_indptr.data(), plan.kv_indptr = kv_indptr.data(), plan.last_page_len = last_page_len.data();
    if (draw(0, 2) == 0) plan.qo_indptr = nullptr, plan.uniform_qo_len = draw(1, 9);  // in one tile, or in several
    plan.mean_qo_len = draw(0, 2);                                                    // of some batches, whose plans are empty
    PlanHeader want_header, header{-1, -1, -1};
    std::vector<WorkerStart> want(size_t(plan.max_workers), WorkerStart{}), starts = want;
    std::vector<int32_t> want_counters(size_t(plan.max_slots), -1), counters = want_counters;
    plan_work(plan, want_header, want.data(), want_counters.data());
    plan.header = &header, plan.starts = starts.data(), plan.counters = counters.data();
    emulation::Block::run_grid(1, kConfig.threads, 0, uint32_t(round), [&] { gpu::AttentionPlanKernel<kConfig>::run({{plan}}); });
    EXPECT_EQ(std::memcmp(&header, &want_header, sizeof(header)), 0) << "round " << round;
    EXPECT_EQ(std::memcmp(starts.data(), want.data(), want.size() * sizeof(WorkerStart)), 0) << "round " << round;
    EXPECT_EQ(counters, want_counters);
  }
}
TEST(AttentionPlanKernel, SameAsPlanWork) {
  expect_same_as_plan_work<gpu::AttentionPlanConfig{}>();
  expect_same_as_plan_work<gpu::AttentionPlanConfig{.threads = 64}>();
}

}  // namespace
}  // namespace flashinfer
