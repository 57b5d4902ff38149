// Plans of queries whose lengths only the device knows: which kernel runs for how many rows, and where its plan lies. Launches are written
// down; the kernels themselves run in cpp_tests/gpu/test_attention_op.cpp.
#include <gtest/gtest.h>

#include <flashinfer/attention/attention.hpp>
#include <string>
#include <vector>

namespace flashinfer {
namespace {

constexpr Device kDevice = {DeviceType::cuda, 0};
constexpr int kBatch = 8, kHeads = 32, kKvHeads = 8, kDim = 128, kPages = 64, kMostRows = 1024;

/// A batch of kBatch requests whose arrays lie on the device, and all that a call needs.
struct ShortQueries : testing::Test {
  RecordingKernels kernels{device_info_of({90, 'a'})};
  Context gpu{.device = kDevice, .kernels = &kernels};
  std::vector<int32_t> qo_indptr, kv_indptr, kv_indices = std::vector<int32_t>(kPages, 1), last_page_len = std::vector<int32_t>(kBatch, 16);
  std::vector<int64_t> floats = std::vector<int64_t>(1 << 23), ints = std::vector<int64_t>(1 << 15), memory = std::vector<int64_t>(1 << 21);
  int64_t float_bytes = int64_t(floats.size() * 8);

  ShortQueries() {
    for (int r = 0; r <= kBatch; ++r) qo_indptr.push_back(r * 4), kv_indptr.push_back(r * kPages / kBatch);
  }
  AttentionLengths lengths(Device device) {
    const auto view = [&](std::vector<int32_t>& v) { return TensorView(v.data(), DType::i32, {int64_t(v.size())}, device); };
    AttentionLengths lengths;
    lengths.qo_indptr = view(qo_indptr), lengths.kv_indptr = view(kv_indptr), lengths.kv_indices = view(kv_indices);
    lengths.last_page_len = view(last_page_len);
    return lengths;
  }
  AttentionProblem problem(int32_t max_qo_len = 0) { return {.causal = 1, .max_qo_len = max_qo_len}; }
  PlannedAttention plan(const AttentionProblem& problem, Device lie = kDevice, const AttentionPlanOptions& options = {}) {
    return plan_attention(problem, lengths(lie), options.reusable ? lengths(kDevice) : AttentionLengths{},
                          TensorView(floats.data(), DType::u8, {float_bytes}, kDevice),
                          TensorView(ints.data(), DType::i64, {int64_t(ints.size())}, kDevice), options, gpu);
  }
  /// The kernel that runs for so many rows.
  const RecordingKernels::Launch& run(const PlannedAttention& planned, int64_t rows, const AttentionArguments& args = {},
                                      int64_t token_gap = 0) {
    const AttentionProblem& p = planned.problem;
    const size_t before = kernels.launches.size();
    TensorView cache(memory.data(), p.kv, {kPages, 16, kKvHeads, kDim}, kDevice);
    for (int i = 0; i < 3; ++i) cache.strides[i] += token_gap;  // overlap as they may
    attention(planned, TensorView(memory.data(), p.q, {rows, kHeads, kDim}, kDevice), cache, cache,
              TensorView(memory.data() + (1 << 20), p.out, {rows, kHeads, kDim}, kDevice), {}, args, gpu);
    EXPECT_EQ(kernels.launches.size(), before + 1) << "nothing but the kernel";
    return kernels.launches.back();
  }
  static bool is_decode(const RecordingKernels::Launch& launch) { return launch.text.kernel.starts_with("DecodeKernel"); }
  static AttentionParams params_of(const RecordingKernels::Launch& launch) {
    AttentionParams params;
    std::memcpy(&params, launch.params.data(), sizeof(params));
    return params;
  }
};

TEST_F(ShortQueries, RunWhatTheyWouldIfTheHostKnewThem) {
  const PlannedAttention planned = plan(problem());
  ASSERT_EQ(kernels.launches.size(), 1u) << "all plans at once";
  EXPECT_EQ(kernels.launches[0].shape.grid, (Dim3{5}));
  for (int32_t qo_len = 1; qo_len <= 20; ++qo_len) {
    const auto got = run(planned, kBatch * qo_len);
    const PlannedAttention known = plan(problem(qo_len));
    EXPECT_EQ(is_decode(got), qo_len <= 16) << "64 rows of 4 heads a group";
    if (!is_decode(got)) continue;
    const auto want = run(known, kBatch * qo_len);
    EXPECT_EQ(got.text.kernel, want.text.kernel);
    EXPECT_EQ(got.shape.grid, want.shape.grid);
    EXPECT_EQ(params_of(got).plan.max_workers, params_of(want).plan.max_workers);
    EXPECT_EQ(params_of(got).plan.head_lanes, params_of(want).plan.head_lanes);
    EXPECT_EQ(kernel_for(planned, kBatch * qo_len).plan.q_tile, params_of(got).plan.q_tile);
  }
  EXPECT_EQ(run(planned, kBatch * 4).hash, run(planned, kBatch * 4).hash);
}

TEST_F(ShortQueries, OfDifferentLengthsAreTakenAsLong) {
  const PlannedAttention planned = plan(problem());
  for (int64_t rows : {1, 7, 9, 33, 127, 1023}) EXPECT_FALSE(is_decode(run(planned, rows))) << rows;
}

TEST_F(ShortQueries, HaveNoPlansWhereTheKernelIsChosen) {
  AttentionProblem generic = problem(), decode = problem(), invariant = problem(), rope = problem(), wide = problem();
  generic.backend = AttentionBackend::generic, decode.backend = AttentionBackend::decode;
  invariant.batch_invariant = 1, rope.flags.rope = true, wide.head_dim_qk = wide.head_dim_vo = 512;
  for (const AttentionProblem& p : {generic, decode, invariant, rope, wide, problem(16), problem(512)}) {
    EXPECT_EQ(plan(p).num_short_plans, 0);
    EXPECT_EQ(kernels.launches.back().shape.grid, (Dim3{1}));
  }
  EXPECT_EQ(plan(problem(), {}).num_short_plans, 0) << "lengths on the host";
  gpu.validate = true;
  EXPECT_EQ(plan(problem()).num_short_plans, 0) << "lengths read back";
  kernels = RecordingKernels{device_info_of({75, 0})};
  gpu.validate = false;
  EXPECT_EQ(plan(problem()).num_short_plans, 0) << "no decode kernel";
}

/// What the decode kernel does not take runs as it did.
TEST_F(ShortQueries, FallBack) {
  AttentionProblem fp8 = problem();
  fp8.kv = DType::e4m3;
  const PlannedAttention planned = plan(fp8);
  EXPECT_TRUE(is_decode(run(planned, kBatch)));
  EXPECT_FALSE(is_decode(run(planned, kBatch, {}, 8))) << "strides of 8 bytes";
  const auto generic = params_of(kernels.launches.back());
  EXPECT_EQ(generic.plan.q_tile, planned.plan.q_tile);
  EXPECT_EQ(generic.plan.starts, planned.plan.starts);
  AttentionArguments rope;
  rope.variant.rope_log2_theta = 13.0f;
  EXPECT_FALSE(is_decode(run(planned, kBatch, rope)));
}

TEST_F(ShortQueries, GroupsChooseTheTiles) {
  const auto tiles = [&](int32_t heads) {
    AttentionProblem p = problem();
    p.num_qo_heads = heads, p.num_kv_heads = 1;
    const PlannedAttention planned = plan(p);
    std::vector<std::pair<int, int>> list;
    for (int i = 0; i < planned.num_short_plans; ++i)
      list.emplace_back(planned.short_plans[i].tile_qo_len, planned.short_plans[i].plan.q_tile);
    return list;
  };
  using List = std::vector<std::pair<int, int>>;
  EXPECT_EQ(tiles(1), (List{{8, 8}, {16, 16}, {32, 32}, {64, 64}}));
  EXPECT_EQ(tiles(5), (List{{1, 8}, {3, 16}, {6, 32}, {12, 64}}));
  EXPECT_EQ(tiles(16), (List{{1, 16}, {2, 32}, {4, 64}}));
  EXPECT_EQ(tiles(40), (List{{1, 64}}));
  EXPECT_EQ(tiles(65), List{});
}

TEST_F(ShortQueries, PlansLieApartWithinTheWorkspaces) {
  for (const bool upload : {false, true}) {  // page ids from the host travel behind the plans
    AttentionLengths mixed = lengths(kDevice);
    if (upload) mixed.kv_indices.device = {};
    const AttentionWorkspace full = workspace_size(problem(), mixed, {}, {}, gpu);
    EXPECT_GE(workspace_size(problem(), AttentionCapacity{kBatch, kPages, upload}, {}, gpu).int_bytes, full.int_bytes);
    EXPECT_GE(workspace_size(problem(), AttentionCapacity{kBatch, kPages, upload}, {}, gpu).float_bytes, full.float_bytes);
    for (const int64_t floats_given : {full.float_bytes, full.float_bytes / 2, full.float_bytes / 9, int64_t(1000), int64_t(0)}) {
      const AttentionWorkspace size{floats_given, full.int_bytes};
      const PlannedAttention planned =
          plan_attention(problem(), mixed, {}, TensorView(floats.data(), DType::u8, {size.float_bytes}, kDevice),
                         TensorView(ints.data(), DType::u8, {size.int_bytes}, kDevice), {}, gpu);
      EXPECT_EQ(planned.num_short_plans, 4);
      std::vector<char> taken(size_t(size.int_bytes));
      const auto take = [&](const void* begin, int64_t bytes) {
        const int64_t at = static_cast<const char*>(begin) - reinterpret_cast<const char*>(ints.data());
        ASSERT_TRUE(at >= 0 && at + bytes <= size.int_bytes);
        for (int64_t i = at; i < at + bytes; ++i) ASSERT_EQ(std::exchange(taken[size_t(i)], 1), 0);
      };
      detail::for_each_plan(planned, [&](const PlannedKernel& kernel, int32_t) {
        const AttentionPlan& p = kernel.plan;
        take(p.header, sizeof(PlanHeader));
        take(p.starts, int64_t(p.max_workers) * int64_t(sizeof(WorkerStart)));
        take(p.counters, int64_t(p.max_slots) * 4);
        const auto end = [&](const auto* begin, int64_t count) {
          EXPECT_LE(reinterpret_cast<const char*>(begin + count), reinterpret_cast<const char*>(floats.data()) + size.float_bytes);
        };
        if (p.max_slots == 0) return;
        end(p.partial_out, int64_t(p.max_slots) * p.q_tile * kernel.vo_tile);
        end(p.partial_states, int64_t(p.max_slots) * p.q_tile);
      });
      if (upload) take(planned.kv_indices, kPages * 4);
      EXPECT_TRUE(is_decode(run(planned, kBatch * 4)));
    }
  }
}

TEST_F(ShortQueries, AnotherMaskIsPlannedForAll) {
  PlannedAttention planned = plan(problem());
  plan_mask(planned, false, -1, gpu);
  ASSERT_EQ(kernels.launches.size(), 2u);
  EXPECT_EQ(kernels.launches[1].shape.grid, (Dim3{5}));
  AttentionPlans plans;
  ASSERT_EQ(kernels.launches[1].params.size(), sizeof(plans));
  std::memcpy(&plans, kernels.launches[1].params.data(), sizeof(plans));
  for (const AttentionPlan& p : plans.plans) EXPECT_EQ(p.causal, 0);
  const auto& launch = run(planned, kBatch * 4);
  EXPECT_NE(launch.text.kernel.find(".limits=false"), std::string::npos) << launch.text.kernel;
  EXPECT_EQ(params_of(launch).plan.causal, 0);
}

/// What is captured of a plan serves those that follow it, wherever their lengths come from.
TEST_F(ShortQueries, ReusablePlansStayWhereTheyAre) {
  const PlannedAttention first = plan(problem(), kDevice, {.reusable = true});
  const auto captured = run(first, kBatch * 4);
  EXPECT_TRUE(is_decode(captured));
  for (const Device lie : {kDevice, Device{}}) {
    const size_t before = kernels.launches.size();
    const PlannedAttention again = plan(problem(first.problem.max_qo_len), lie, {.reusable = true, .tile_qo_len = first.tile_qo_len});
    ASSERT_EQ(kernels.launches.size(), before + 1) << "made on the device";
    EXPECT_EQ(kernels.launches.back().params, kernels.launches[0].params);
    EXPECT_EQ(run(again, kBatch * 4).params, captured.params);
    EXPECT_EQ(kernels.launches.back().hash, captured.hash);
  }
}

}  // namespace
}  // namespace flashinfer
