// Tuning of the generic attention kernel gives configs that fit their device, for every architecture, head dimension and dtype;
// launches are as the plan and the config say.
#include <flashinfer/attention/gpu/attention.hpp>

#include <gtest/gtest.h>

#include <set>

namespace flashinfer::gpu {
namespace {

constexpr Arch kArchs[] = {{75, 0}, {80, 0}, {86, 0}, {87, 0}, {89, 0}, {90, 'a'}, {100, 'a'}, {103, 'a'}, {120, 'a'}, {121, 'a'}};

template <class Visit>
void for_each_problem(Visit&& visit) {
  for (DType kv : {DType::bf16, DType::e4m3})
    for (int32_t head_dim_qk = 8; head_dim_qk <= 512; head_dim_qk += 24)
      for (int32_t head_dim_vo : {8, 64, 72, 128, 256, 264, 320, 512})
        for (int32_t max_qo_len : {0, 1, 4, 17, 5000})
          for (bool masks : {false, true})
            visit(AttentionProblem{.kv = kv,
                                   .head_dim_qk = head_dim_qk,
                                   .head_dim_vo = head_dim_vo,
                                   .causal = !masks,
                                   .max_qo_len = max_qo_len,
                                   .flags = {.custom_mask = masks}});
}

TEST(AttentionTuning, EveryProblemHasAKernelOnEveryDevice) {
  for (Arch arch : kArchs) {
    const DeviceInfo device = device_info_of(arch);
    for_each_problem([&](const AttentionProblem& problem) {
      const AttentionConfig config = tune(problem, device);
      ASSERT_EQ(why_invalid(config, device), nullptr)
          << why_invalid(config, device) << ": " << text_of(config) << " on " << to_string(arch);
      ASSERT_GE(workers_per_sm(config, device), 1);
      ASSERT_LE(smem_bytes(config), device.smem_per_block);
      ASSERT_LE(num_threads(config) * min_blocks(config), 1024);
      ASSERT_EQ(config.head_dim_vo, problem.head_dim_vo);
      // A call may ask for RoPE that the plan knew nothing of.
      AttentionConfig with_rope = config;
      with_rope.rope = true;
      ASSERT_EQ(why_invalid(with_rope, device), nullptr) << text_of(config) << " on " << to_string(arch);
    });
  }
}

TEST(AttentionTuning, RowsOfATileFollowTheQueries) {
  const DeviceInfo device = device_info_of({90, 'a'});
  EXPECT_EQ(tune({.max_qo_len = 1}, device).q_tile, 16);
  EXPECT_EQ(tune({.max_qo_len = 1}, device).warps_kv, 4);
  EXPECT_EQ(tune({.max_qo_len = 4}, device).q_tile, 16);
  EXPECT_EQ(tune({.max_qo_len = 5}, device).q_tile, 64);
  EXPECT_EQ(tune({.max_qo_len = 0}, device).q_tile, 64);
  EXPECT_EQ(tune({.max_qo_len = 512}, device).q_tile, 128);
  EXPECT_EQ(rows_per_warp(tune({.max_qo_len = 512}, device)), 32);
  EXPECT_GE(workers_per_sm(tune({.max_qo_len = 512}, device), device), 2);
}

TEST(AttentionTuning, BatchInvariantDoesNotLookAtTheBatch) {
  for (Arch arch : kArchs) {
    const DeviceInfo device = device_info_of(arch);
    for_each_problem([&](AttentionProblem problem) {
      problem.batch_invariant = 1;
      const AttentionConfig config = tune(problem, device);
      problem.max_qo_len = 1;
      ASSERT_EQ(text_of(tune(problem, device)), text_of(config));
      ASSERT_EQ(64 % config.kv_tile, 0) << "cuts are multiples of 64 keys";
    });
  }
}

TEST(AttentionTuning, PrecompiledConfigsAreValid) {
  for (Arch arch : kArchs) {
    std::set<std::string> texts;
    for_each_tuned_attention(arch, [&](const AttentionConfig& config) {
      EXPECT_EQ(why_invalid(config, arch), nullptr) << text_of(config);
      texts.insert(text_of(config));
    });
    EXPECT_GE(texts.size(), 20u);
    EXPECT_LE(texts.size(), 60u);
  }
}

TEST(AttentionTuning, RefusesWhatNoKernelTakes) {
  EXPECT_NE(why_invalid(AttentionConfig{.q = DType::f32}), nullptr);
  EXPECT_NE(why_invalid(AttentionConfig{.kv = DType::f16}), nullptr);
  EXPECT_NE(why_invalid(AttentionConfig{.head_dim_qk = 100}), nullptr);
  EXPECT_NE(why_invalid(AttentionConfig{.kv_tile = 24}), nullptr);
  EXPECT_NE(why_invalid(AttentionConfig{.q_tile = 128, .warps_q = 2}), nullptr);
  EXPECT_NE(why_invalid(AttentionConfig{.head_dim_qk = 512, .head_dim_vo = 512, .vo_tile = 512}), nullptr);
  EXPECT_NE(why_invalid(AttentionConfig{}, Arch{75, 0}), nullptr) << "two stages of 64 keys do not fit 64 KB";
  EXPECT_EQ(why_invalid(AttentionConfig{}, Arch{90, 'a'}), nullptr);
}

struct LaunchedAttention : testing::Test {
  RecordingKernels kernels{device_info_of({90, 'a'})};
  Context context{.device = {DeviceType::cuda, 0}, .kernels = &kernels, .pdl = true};
  AttentionConfig config = tune({}, kernels.device_info(0));
  AttentionParams params;
  alignas(16) unsigned char memory[16] = {};

  void SetUp() override {
    params.plan.q_tile = config.q_tile, params.plan.kv_tile = config.kv_tile, params.plan.page_size = 16, params.plan.max_workers = 264;
    params.q = params.kv.k = params.kv.v = memory, params.out = memory;
    params.q_stride_token = params.kv.k_stride_token = 1024;
  }
};

TEST_F(LaunchedAttention, OneBlockAWorker) {
  attention(params, config, context);
  ASSERT_EQ(kernels.launches.size(), 1u);
  const auto& launch = kernels.launches[0];
  EXPECT_EQ(launch.shape.grid, (Dim3{264}));
  EXPECT_EQ(launch.shape.block, (Dim3{uint32_t(num_threads(config))}));
  EXPECT_EQ(launch.shape.smem_bytes, smem_bytes(config));
  EXPECT_TRUE(launch.shape.pdl);
  EXPECT_EQ(launch.text.header, AttentionConfig::kHeader);
  EXPECT_EQ(launch.text.kernel, "AttentionKernel<" + text_of(config) + ">");
  EXPECT_EQ(launch.params.size(), sizeof(AttentionParams));
}

TEST_F(LaunchedAttention, UserFunctor) {
  const UserVariant variant = {"mine.cuh", "struct Mine {};", "Mine"};
  attention(params, config, context);
  attention(params, config, context, &variant);
  UserVariant edited = variant;
  edited.text += " ";
  attention(params, config, context, &edited);
  ASSERT_EQ(kernels.launches.size(), 3u);
  const auto& launch = kernels.launches[1];
  EXPECT_EQ(launch.text.kernel, "AttentionKernel<" + text_of(config) + ", Mine>");
  EXPECT_EQ(launch.text.user_name, "mine.cuh");
  EXPECT_EQ(launch.text.user_text, "struct Mine {};");
  EXPECT_NE(launch.hash, kernels.launches[0].hash);
  EXPECT_NE(launch.hash, kernels.launches[2].hash);
}

TEST_F(LaunchedAttention, RefusesWhatDoesNotFit) {
  AttentionParams other = params;
  other.plan.q_tile += 16;
  EXPECT_THROW(attention(other, config, context), InvalidArgument);
  other = params;
  other.q_stride_token = 1023;
  EXPECT_THROW(attention(other, config, context), Unsupported);
  other = params;
  other.kv.k = memory + 8;
  EXPECT_THROW(attention(other, config, context), Unsupported);
  AttentionConfig large = config;
  large.num_stages = 4, large.head_dim_qk = 512;
  EXPECT_THROW(attention(params, large, context), Unsupported);
  EXPECT_TRUE(kernels.launches.empty());
}

TEST_F(LaunchedAttention, PlanOnDevice) {
  plan_on_device({{params.plan, params.plan}}, 2, context);
  ASSERT_EQ(kernels.launches.size(), 1u);
  EXPECT_EQ(kernels.launches[0].shape.grid, (Dim3{2}));
  EXPECT_EQ(kernels.launches[0].shape.block, (Dim3{uint32_t(AttentionPlanConfig{}.threads)}));
  EXPECT_EQ(kernels.launches[0].params.size(), sizeof(AttentionPlans));
}

}  // namespace
}  // namespace flashinfer::gpu
