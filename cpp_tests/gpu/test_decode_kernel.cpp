// The decode kernel, emulated: rows, groups of warps, page sizes, caches and variants, on random batches with random splits.
#include "cpp_tests/gpu/attention_batch.hpp"

namespace flashinfer {
namespace {

// One warp's rows are all of a tile's.
constexpr DecodeConfig kRows8 = {.head_dim_qk = 64, .head_dim_vo = 64};
// Warps share the keys.
constexpr DecodeConfig kRows32 = {.q = DType::f16,
                                  .kv = DType::f16,
                                  .out = DType::f16,
                                  .head_dim_qk = 64,
                                  .head_dim_vo = 64,
                                  .q_tile = 32,
                                  .warps_q = 2,
                                  .num_stages = 8,
                                  .num_items = 2,
                                  .blocks_per_sm = 1};

TEST(DecodeKernel, OneQueryToken) {
  expect_attention<kRows8>({.most_qo = 1, .most_group = 8, .causal = true}, 0, 6);
  expect_attention<kRows8>({.batch_size = 9, .most_qo = 1, .most_kv = 100, .most_group = 8, .max_workers = 40}, 6, 3);
  expect_attention<kRows8>({.most_qo = 1, .most_kv = 2000, .most_group = 8, .max_workers = 3}, 9, 3);
}

/// Logits so far apart that maxima move up, and sums are rescaled, again and again.
TEST(DecodeKernel, SharpSoftmax) {
  expect_attention<kRows8>({.most_qo = 1, .most_kv = 900, .most_group = 8, .sm_scale = 2.0f}, 12, 3);
  expect_attention<kRows32>({.most_qo = 4, .most_kv = 900, .causal = true, .sm_scale = 2.0f}, 15, 3);
}

TEST(DecodeKernel, EveryPageSize) {
  uint32_t seed = 20;
  for (int page_size : {1, 2, 3, 5, 8, 16, 24, 64, 128})
    expect_attention<kRows8>({.most_qo = 2, .most_kv = 700, .most_group = 4, .page_size = page_size, .causal = true}, seed += 2, 2);
}

TEST(DecodeKernel, SeveralQueryTokens) {
  expect_attention<kRows32>({.most_qo = 6, .causal = true}, 50, 4);
  expect_attention<kRows32>({.most_qo = 30, .page_size = 5, .causal = true, .window_left = 50, .max_workers = 40}, 54, 4);
  expect_attention<kRows32>({.most_qo = 4, .window_left = 7}, 58, 2);
  // The factor is folded into the softmax when it is positive only.
  expect_attention<kRows32>({.most_qo = 4, .causal = true, .sm_scale = -0.3f}, 60, 2);
}

TEST(DecodeKernel, SixtyFourRows) {
  constexpr DecodeConfig kConfig = {.head_dim_qk = 32,
                                    .head_dim_vo = 64,
                                    .q_tile = 64,
                                    .kv_tile = 16,
                                    .warps_q = 4,
                                    .warps_kv = 2,
                                    .load_warps = 2,
                                    .num_stages = 4,
                                    .num_items = 2,
                                    .blocks_per_sm = 1,
                                    .paged = false};
  expect_attention<kConfig>({.most_qo = 40, .causal = true}, 70, 3);
}

TEST(DecodeKernel, ClustersShareSegments) {
  constexpr DecodeConfig kConfig = {
      .head_dim_qk = 64, .head_dim_vo = 64, .kv_tile = 16, .load_warps = 2, .num_stages = 4, .blocks_per_sm = 1, .cluster_blocks = 4};
  expect_attention<kConfig>({.batch_size = 1, .most_qo = 1, .most_kv = 500, .most_group = 8, .causal = true, .max_workers = 8}, 200, 4);
  expect_attention<kConfig>({.batch_size = 3, .most_qo = 2, .most_kv = 300, .most_group = 4, .causal = true, .window_left = 40}, 204, 4);
  // Uneven lengths, and more rows than a tile has: the plan's pieces.
  expect_attention<kConfig>({.batch_size = 6, .most_qo = 1, .most_kv = 3000, .most_group = 8, .max_workers = 24}, 208, 3);
  expect_attention<kConfig>({.batch_size = 2, .most_qo = 9, .most_kv = 200, .most_group = 8, .causal = true, .max_workers = 9}, 211, 3);
  constexpr DecodeConfig kSinks = {
      .head_dim_qk = 64, .head_dim_vo = 64, .q_tile = 16, .num_stages = 4, .cluster_blocks = 2, .soft_cap = true, .sinks = true};
  expect_attention<kSinks>({.batch_size = 2, .most_qo = 2, .most_kv = 300, .most_group = 8, .causal = true}, 214, 3);
}

/// More clusters than segments: several share one, if it is long enough, and the last to come merges.
TEST(DecodeKernel, ClustersMergeParts) {
  constexpr DecodeConfig kConfig = {
      .head_dim_qk = 64, .head_dim_vo = 64, .kv_tile = 16, .load_warps = 2, .num_stages = 4, .cluster_blocks = 2};
  expect_attention<kConfig>({.batch_size = 1, .most_qo = 1, .most_kv = 3000, .most_group = 8, .causal = true, .max_workers = 23}, 220, 4);
  expect_attention<kConfig>({.batch_size = 2, .most_qo = 2, .most_kv = 900, .most_group = 4, .causal = true, .max_workers = 40}, 224, 4);
  expect_attention<kConfig>({.batch_size = 1, .most_qo = 2, .most_kv = 1500, .most_group = 4, .window_left = 700, .max_workers = 31}, 228,
                            3);
  // Segments of different numbers of parts.
  expect_attention<kConfig>({.batch_size = 2, .most_qo = 1, .most_kv = 3000, .most_group = 8, .least_kv = 1500, .max_workers = 64}, 234, 4);
  constexpr DecodeConfig kSinks = {.head_dim_qk = 64,
                                   .head_dim_vo = 128,
                                   .q_tile = 16,
                                   .load_warps = 4,
                                   .num_stages = 4,
                                   .cluster_blocks = 8,
                                   .paged = false,
                                   .sinks = true};
  expect_attention<kSinks>({.batch_size = 1, .most_qo = 2, .most_kv = 2500, .most_group = 8, .max_workers = 66}, 231, 3);
}

TEST(DecodeKernel, HeadDimensions) {
  constexpr DecodeConfig k256 = {.head_dim_qk = 256, .head_dim_vo = 256, .kv_tile = 16, .num_stages = 4};
  expect_attention<k256>({.most_qo = 1, .most_group = 8}, 80, 2);
  constexpr DecodeConfig k96 = {.q = DType::f16, .kv = DType::f16, .out = DType::f32, .head_dim_qk = 96, .head_dim_vo = 96, .q_tile = 16};
  expect_attention<k96>({.most_qo = 3, .causal = true}, 82, 2);
  constexpr DecodeConfig k192 = {.head_dim_qk = 192, .head_dim_vo = 128, .paged = false, .limits = false};
  expect_attention<k192>({.most_qo = 1, .most_group = 8}, 84, 2);
}

TEST(DecodeKernel, Float8Cache) {
  constexpr DecodeConfig kE4m3 = {.kv = DType::e4m3, .kv_tile = 64, .num_stages = 4};
  expect_attention<kE4m3>({.most_qo = 1, .most_group = 8}, 90, 3);
  expect_attention<kE4m3>({.most_qo = 2, .most_kv = 600, .most_group = 4, .page_size = 1, .causal = true}, 93, 2);
  constexpr DecodeConfig kE5m2 = {.q = DType::f16,
                                  .kv = DType::e5m2,
                                  .out = DType::f16,
                                  .head_dim_qk = 64,
                                  .head_dim_vo = 96,
                                  .q_tile = 32,
                                  .kv_tile = 32,
                                  .warps_q = 2,
                                  .num_stages = 4,
                                  .sinks = true};
  expect_attention<kE5m2>({.most_qo = 6, .causal = true}, 96, 3);
}

TEST(DecodeKernel, ScalesOfHeads) {
  constexpr DecodeConfig k16 = {.head_dim_qk = 64, .head_dim_vo = 64, .head_scales = true};
  expect_attention<k16>({.most_qo = 1, .most_group = 8}, 300, 3);
  constexpr DecodeConfig kE4m3 = {.kv = DType::e4m3,
                                  .head_dim_qk = 64,
                                  .head_dim_vo = 64,
                                  .q_tile = 16,
                                  .num_stages = 4,
                                  .soft_cap = true,
                                  .sinks = true,
                                  .head_scales = true};
  expect_attention<kE4m3>({.most_qo = 4, .causal = true, .max_workers = 20}, 303, 3);
  constexpr DecodeConfig kCluster = {
      .kv = DType::e5m2, .head_dim_qk = 64, .head_dim_vo = 64, .kv_tile = 16, .num_stages = 4, .cluster_blocks = 4, .head_scales = true};
  expect_attention<kCluster>({.batch_size = 2, .most_qo = 1, .most_kv = 500, .most_group = 8}, 306, 3);
}

TEST(DecodeKernel, ScalesOfTokens) {
  constexpr DecodeConfig kE4m3 = {
      .kv = DType::e4m3, .head_dim_qk = 64, .head_dim_vo = 64, .kv_tile = 64, .num_stages = 4, .token_scales = true};
  for (int page_size : {1, 3, 16})
    expect_attention<kE4m3>({.most_qo = 1, .most_kv = 900, .most_group = 8, .page_size = page_size}, 310 + uint32_t(page_size), 3);
  expect_attention<kE4m3>({.most_qo = 4, .most_group = 2, .causal = true, .window_left = 30}, 330, 4);
  // So far apart that the unit of the accumulators moves up again and again.
  expect_attention<kE4m3>({.most_qo = 1, .most_kv = 2000, .most_group = 8, .max_workers = 3, .value_spread = 3.0f}, 350, 4);
  constexpr DecodeConfig kE5m2 = {.q = DType::f16,
                                  .kv = DType::e5m2,
                                  .out = DType::f16,
                                  .head_dim_qk = 32,
                                  .head_dim_vo = 96,
                                  .q_tile = 32,
                                  .kv_tile = 32,
                                  .warps_q = 2,
                                  .load_warps = 2,
                                  .num_stages = 4,
                                  .paged = false,
                                  .soft_cap = true,
                                  .head_scales = true,
                                  .token_scales = true};
  expect_attention<kE5m2>({.most_qo = 6, .causal = true, .max_workers = 20}, 340, 4);
  constexpr DecodeConfig kCluster = {
      .kv = DType::e4m3, .head_dim_qk = 64, .head_dim_vo = 64, .kv_tile = 16, .num_stages = 4, .cluster_blocks = 4, .token_scales = true};
  expect_attention<kCluster>({.batch_size = 3, .most_qo = 2, .most_kv = 300, .most_group = 4, .causal = true, .window_left = 40}, 344, 4);
}

TEST(DecodeKernel, Variants) {
  constexpr DecodeConfig kMask = {.q = DType::f16,
                                  .kv = DType::f16,
                                  .out = DType::f16,
                                  .head_dim_qk = 32,
                                  .head_dim_vo = 32,
                                  .q_tile = 16,
                                  .limits = false,
                                  .custom_mask = true};
  expect_attention<kMask>({.most_qo = 10}, 100, 3);
  constexpr DecodeConfig kCap = {.q = DType::f16,
                                 .kv = DType::f16,
                                 .out = DType::f32,
                                 .head_dim_qk = 32,
                                 .head_dim_vo = 32,
                                 .q_tile = 16,
                                 .soft_cap = true,
                                 .alibi = true};
  expect_attention<kCap>({.most_qo = 4, .causal = true}, 103, 3);
  constexpr DecodeConfig kAll = {.head_dim_qk = 32,
                                 .head_dim_vo = 32,
                                 .q_tile = 16,
                                 .warps_q = 2,
                                 .soft_cap = true,
                                 .alibi = true,
                                 .custom_mask = true,
                                 .sinks = true};
  expect_attention<kAll>({.most_qo = 6, .window_left = 60}, 106, 4);
}

TEST(DecodeKernel, SameBitsWhateverTheOrder) { expect_same_bits_whatever_the_order<kRows8>(); }
TEST(DecodeKernel, BatchInvariant) { expect_batch_invariance<kRows32>(); }
TEST(DecodeKernel, WildLengthsReadNothingWild) { expect_nothing_wild_read<kRows8>(); }

}  // namespace
}  // namespace flashinfer
