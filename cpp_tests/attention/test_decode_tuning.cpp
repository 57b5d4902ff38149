// Tuning of the decode kernel gives configs that fit their device, for every architecture, head dimension and dtype; the choice between
// the kernels is a pure function of the problem.
#include <flashinfer/attention/attention.hpp>

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace flashinfer::gpu {
namespace {

constexpr Arch kDecodeArchs[] = {{75, 0}, {80, 0}, {86, 0}, {87, 0}, {89, 0}, {90, 'a'}, {100, 'a'}, {103, 'a'}, {120, 'a'}, {121, 'a'}};

template <class Visit>
void for_each_decode_problem(Visit&& visit) {
  for (DType kv : {DType::bf16, DType::e4m3})
    for (int32_t head_dim_qk : {8, 32, 64, 72, 80, 96, 128, 192, 256, 320})
      for (int32_t head_dim_vo : {32, 64, 128, 256})
        for (int32_t max_qo_len : {0, 1, 2, 4, 8, 16, 17, 5000})
          for (int32_t heads : {8, 32})
            for (bool masks : {false, true})
              visit(AttentionProblem{.kv = kv,
                                     .num_qo_heads = heads,
                                     .head_dim_qk = head_dim_qk,
                                     .head_dim_vo = head_dim_vo,
                                     .causal = !masks,
                                     .max_qo_len = max_qo_len,
                                     .flags = {.custom_mask = masks}});
}

TEST(DecodeTuning, WhatIsChosenFits) {
  for (Arch arch : kDecodeArchs) {
    const DeviceInfo device = device_info_of(arch);
    int chosen = 0;
    for_each_decode_problem([&](const AttentionProblem& problem) {
      const AttentionBackend backend = choose_backend(problem, device);
      if (backend == AttentionBackend::generic) return;
      ++chosen;
      const DecodeConfig config = tune_decode(problem, device);
      ASSERT_EQ(why_invalid(config, device), nullptr) << text_of(config) << " on " << to_string(arch);
      ASSERT_LE(config.blocks_per_sm * (smem_bytes(config) + 1024), device.smem_per_sm) << text_of(config) << " on " << to_string(arch);
      ASSERT_LE(config.blocks_per_sm * num_threads(config), 1024);
      ASSERT_GE(config.q_tile, problem.max_qo_len * (problem.num_qo_heads / problem.num_kv_heads)) << "one tile a request";
      ASSERT_EQ(64 % config.kv_tile, 0) << "cuts are multiples of 64 keys";
      for (int64_t segments : {1, 8, 16, 20, 64, 67, 100, 132, 133, 1000}) {
        const DecodeConfig with = tune_cluster(config, segments, segments % 3 ? 1024 : INT64_MAX, device);
        ASSERT_EQ(why_invalid(with, device), nullptr) << text_of(with);
        ASSERT_LE(with.blocks_per_sm * (smem_bytes(with) + 1024), device.smem_per_sm) << text_of(with);
        ASSERT_LE(with.blocks_per_sm * num_threads(with), 1024);
        ASSERT_EQ(with.q_tile, config.q_tile);
        ASSERT_EQ(with.blocks_per_sm, config.blocks_per_sm);
        ASSERT_TRUE(with.cluster_blocks == 1 || arch.number >= 90);
        const int32_t workers = workers_at_once(with, device.num_sms, device);
        ASSERT_LE(workers, device.num_sms * with.blocks_per_sm);
        ASSERT_TRUE(with.cluster_blocks == 1 || workers >= segments * with.cluster_blocks) << "a cluster for each segment";
      }
    });
    EXPECT_EQ(chosen > 0, arch.number >= 80) << to_string(arch);
  }
}

TEST(DecodeTuning, ChoosesByRowsDimensionsAndDtypes) {
  const DeviceInfo device = device_info_of({90, 'a'});
  const auto chosen = [&](AttentionProblem p) { return choose_backend(p, device) == AttentionBackend::decode; };
  EXPECT_TRUE(chosen({.max_qo_len = 1}));
  EXPECT_TRUE(chosen({.max_qo_len = 16}));
  EXPECT_FALSE(chosen({.max_qo_len = 17}));
  EXPECT_FALSE(chosen({.max_qo_len = 0})) << "of unknown length";
  EXPECT_TRUE(chosen({.num_qo_heads = 8, .max_qo_len = 64}));
  EXPECT_TRUE(chosen({.kv = DType::e5m2}));
  EXPECT_FALSE(chosen({.q = DType::e4m3, .kv = DType::e4m3}));
  EXPECT_FALSE(chosen({.head_dim_qk = 80}));
  EXPECT_TRUE(chosen({.head_dim_qk = 192}));
  EXPECT_FALSE(chosen({.head_dim_qk = 512, .head_dim_vo = 512}));
  EXPECT_FALSE(chosen({.flags = {.rope = true}}));
  EXPECT_TRUE(chosen({.max_qo_len = 4000, .backend = AttentionBackend::decode})) << "as asked";
  EXPECT_FALSE(chosen({.backend = AttentionBackend::generic}));
  EXPECT_EQ(choose_backend({}, device_info_of({75, 0})), AttentionBackend::generic);
  EXPECT_EQ(tune_decode({.max_qo_len = 1}, device).q_tile, 8);
  EXPECT_EQ(tune_decode({.max_qo_len = 4}, device).q_tile, 16);
  EXPECT_EQ(tune_decode({.max_qo_len = 8}, device).q_tile, 32);
  EXPECT_EQ(tune_decode({.max_qo_len = 16}, device).q_tile, 64);
}

TEST(DecodeTuning, HeadLanes) {
  const DeviceInfo device = device_info_of({90, 'a'});
  EXPECT_EQ(head_lanes(tune_decode({.max_qo_len = 1}, device), 8, 264), 8);
  EXPECT_EQ(head_lanes(tune_decode({.max_qo_len = 16}, device), 8, 132), 8);
  EXPECT_EQ(head_lanes(tune_decode({.max_qo_len = 16}, device), 8, 108), 4);
  EXPECT_EQ(head_lanes(tune_decode({.max_qo_len = 16}, device), 2, 132), 2);
  EXPECT_EQ(head_lanes(tune_decode({.max_qo_len = 16}, device), 1, 132), 1);
}

TEST(DecodeTuning, ClustersAsMeasured) {
  const DeviceInfo device = device_info_of({90, 'a'});
  const DecodeConfig config = tune_decode({.max_qo_len = 1}, device);
  const auto blocks = [&](int64_t segments, int64_t keys) { return tune_cluster(config, segments, keys, device).cluster_blocks; };
  EXPECT_EQ(blocks(8, 1024), 8);
  EXPECT_EQ(blocks(8, 8192), 2);
  EXPECT_EQ(blocks(8, INT64_MAX), 2);
  EXPECT_EQ(blocks(16, 2048), 8);
  EXPECT_EQ(blocks(64, 1024), 2);
  EXPECT_EQ(blocks(128, 1024), 2);
  EXPECT_EQ(blocks(512, 1024), 1);
  const DecodeConfig of_8 = tune_cluster(config, 8, 1024, device), of_2 = tune_cluster(config, 128, 1024, device);
  EXPECT_EQ(of_8.load_warps, 4);
  EXPECT_EQ(of_2.load_warps, 2);
  EXPECT_EQ(workers_at_once(of_8, 132, device), 240) << "30 clusters run at a time";
  EXPECT_EQ(workers_at_once(of_2, 132, device), 264);
  EXPECT_EQ(workers_at_once(config, 132, device), 264);
  EXPECT_EQ(workers_at_once(of_8, 10, device), 20);
}

/// No more clusters than share the keys, where the host knows how many there are, nor than run at a time.
TEST(DecodeTuning, BlocksOfOneRequestAsMeasured) {
  RecordingKernels kernels(device_info_of({90, 'a'}));
  const Device gpu{DeviceType::cuda, 0};
  const Context context{.device = gpu, .kernels = &kernels};
  std::vector<int64_t> floats(1 << 19), ints(1 << 14);
  const auto blocks = [&](int32_t kv_len, Device lie) {
    std::vector<int32_t> kv_indptr{0, kv_len / 16}, last_page_len{16}, kv_indices(size_t(kv_len / 16));
    const auto view = [&](std::vector<int32_t>& v) { return TensorView(v.data(), DType::i32, {int64_t(v.size())}, lie); };
    AttentionLengths lengths;
    lengths.kv_indptr = view(kv_indptr), lengths.kv_indices = view(kv_indices), lengths.last_page_len = view(last_page_len);
    const PlannedAttention planned =
        plan_attention({.max_qo_len = 1}, lengths, {}, TensorView(floats.data(), DType::i64, {int64_t(floats.size())}, gpu),
                       TensorView(ints.data(), DType::i64, {int64_t(ints.size())}, gpu), {}, context);
    EXPECT_EQ(planned.decode.cluster_blocks, kv_len > 2048 ? 2 : 8);
    return num_blocks(planned.plan, planned.decode);
  };
  EXPECT_EQ(blocks(16, {}), 64);
  EXPECT_EQ(blocks(1024, {}), 64);
  EXPECT_EQ(blocks(2048, {}), 128);
  EXPECT_EQ(blocks(8192, {}), 264);
  EXPECT_EQ(blocks(1024, gpu), 240);
}

/// A plan does not know whether its calls will have scales.
TEST(DecodeTuning, EveryFloat8PlanHasRoomForScales) {
  for (Arch arch : kDecodeArchs) {
    const DeviceInfo device = device_info_of(arch);
    for (int32_t dim = 32; dim <= 256; dim += 32)
      for (int32_t dim_vo : {dim, 128})
        for (int32_t qo_len : {1, 2, 4, 8, 200}) {
          const AttentionProblem p{.kv = DType::e5m2, .head_dim_qk = dim, .head_dim_vo = dim_vo, .max_qo_len = qo_len};
          const AttentionConfig generic = tune(p, device);
          EXPECT_EQ(why_invalid(with_scales(generic, true, true, device), device), nullptr)
              << text_of(generic) << " on " << to_string(arch);
          if (why_not_decode(p, device)) continue;
          for (const DecodeConfig& config : decode_configs(p, device)) {
            const DecodeConfig with = with_scales(config, true, true, device);
            EXPECT_EQ(why_invalid(with, device), nullptr) << text_of(with) << " on " << to_string(arch);
            EXPECT_LE(with.blocks_per_sm * (smem_bytes(with) + 1024), device.smem_per_sm) << text_of(with) << " on " << to_string(arch);
          }
        }
  }
}

TEST(DecodeTuning, PrecompiledConfigsAreValid) {
  for (Arch arch : kDecodeArchs) {
    std::set<std::string> texts;
    for_each_tuned_decode(arch, [&](const DecodeConfig& config) {
      EXPECT_EQ(why_invalid(config, arch), nullptr) << text_of(config);
      texts.insert(text_of(config));
    });
    EXPECT_EQ(texts.size() >= 10, arch.number >= 80) << texts.size() << " on " << to_string(arch);
  }
}

TEST(DecodeTuning, Launch) {
  RecordingKernels kernels({{90, 'a'}, 132, 227 << 10, 228 << 10, 50 << 20});
  const Context context{.device = {DeviceType::cuda, 0}, .kernels = &kernels, .pdl = true};
  DecodeConfig config = tune_decode({.kv = DType::e4m3, .max_qo_len = 1}, kernels.device_info(0));
  config.cluster_blocks = 2;
  AttentionParams params;
  AttentionPlan& plan = params.plan;
  plan.batch_size = 3, plan.num_qo_heads = 32, plan.num_kv_heads = 8, plan.q_tile = config.q_tile, plan.kv_tile = config.kv_tile;
  plan.page_size = 16, plan.max_workers = 7;
  params.kv.k_stride_token = params.kv.v_stride_token = 1024, params.kv.k_stride_head = params.kv.v_stride_head = 128;
  params.kv.k_stride_page = params.kv.v_stride_page = 16384, params.kv.num_pages = 100;
  attention(params, config, context);
  const auto& launch = kernels.launches.back();
  EXPECT_EQ(launch.shape.grid, (Dim3{48})) << "a cluster for each of 24 segments";
  EXPECT_EQ(launch.shape.cluster, (Dim3{2}));
  EXPECT_EQ(launch.shape.block, (Dim3{uint32_t(num_threads(config))}));
  EXPECT_EQ(launch.text.kernel, "DecodeKernel<" + text_of(config) + ">");

  plan.max_workers = 263;
  attention(params, config, context);
  EXPECT_EQ(kernels.launches.back().shape.grid, (Dim3{264}));

  params.kv.k_stride_head = 136;
  EXPECT_THROW(attention(params, config, context), Unsupported) << "16 elements of FP8 are copied at a time";
  params.kv.k_stride_head = 128;
  params.kv.num_pages = 1 << 30, params.kv.k_stride_page = 16400;
  EXPECT_THROW(attention(params, config, context), Unsupported) << "too many places for 32 bits";
}

}  // namespace
}  // namespace flashinfer::gpu
