// Attention from the public call to the kernels, emulated: the op plans and launches as on a GPU of two SMs, on memory of the host, and
// what it launches runs at once. Results are compared with the CPU twin's through the same calls.
#include <gtest/gtest.h>

#include <cpp_tests/gpu/emulation/emulator.hpp>

#include <flashinfer/attention/attention.hpp>
#include <flashinfer/attention/gpu/attention_kernel.cuh>
#include <flashinfer/attention/gpu/attention_plan_kernel.cuh>
#include <flashinfer/attention/gpu/decode_kernel.cuh>

namespace flashinfer {
namespace {

constexpr DeviceInfo kDevice{{90, 'a'}, 2, 227 << 10, 228 << 10, 50 << 20};
constexpr Device kGpu{DeviceType::cuda, 0};

/// Up to 3 query tokens a request, 4 query heads on 2 key heads of 64, pages of 16.
constexpr AttentionProblem kProblem{
    .num_qo_heads = 4, .num_kv_heads = 2, .head_dim_qk = 64, .head_dim_vo = 64, .causal = 1, .max_qo_len = 3};
constexpr AttentionConfig kConfig = gpu::tune(kProblem, kDevice);
constexpr AttentionProblem invariant() {
  AttentionProblem problem = kProblem;
  problem.batch_invariant = 1, problem.cut_len = 64;
  return problem;
}
constexpr AttentionConfig kInvariantConfig = gpu::tune(invariant(), kDevice);
constexpr DecodeConfig kDecode = gpu::tune_decode(kProblem, kDevice);
static_assert(gpu::choose_backend(kProblem, kDevice) == AttentionBackend::decode);
/// One request has two segments: a cluster each.
constexpr DecodeConfig kCluster = gpu::tune_cluster(kDecode, 2, INT64_MAX, kDevice);
static_assert(kCluster.cluster_blocks == 2);

/// Of queries whose lengths nobody knows: what long ones get, and more than 4 tokens each.
constexpr AttentionProblem of_qo_len(int32_t max_qo_len) {
  AttentionProblem problem = kProblem;
  problem.max_qo_len = max_qo_len;
  return problem;
}
constexpr AttentionConfig kLong = gpu::tune(of_qo_len(detail::kLongQoLen), kDevice);
constexpr DecodeConfig kDecode16 = gpu::tune_decode(of_qo_len(8), kDevice);

AttentionProblem with(AttentionProblem problem, AttentionBackend backend) {
  problem.backend = backend;
  return problem;
}
constexpr AttentionBackend kBackends[] = {AttentionBackend::generic, AttentionBackend::decode};

/// Runs the kernels of this test where they are launched.
struct EmulatedKernels : RecordingKernels {
  int plans = 0, runs = 0, decodes = 0, clusters = 0, copies = 0;
  EmulatedKernels() : RecordingKernels(kDevice) {}

  template <class Kernel>
  void run(const LaunchShape& shape, const void* data, size_t bytes) {
    typename Kernel::Params params;
    ASSERT_EQ(bytes, sizeof(params));
    ASSERT_EQ(shape.block.x, unsigned(Kernel::kThreads));
    std::memcpy(&params, data, bytes);
    emulation::Block::run_grid(shape.grid.x, shape.block.x, size_t(shape.smem_bytes), 1, [&] { Kernel::run(params); }, shape.cluster.x);
  }
  void launch(const KernelId& id, const LaunchShape& shape, const void* params, size_t bytes, const Context&) override {
    constexpr gpu::AttentionPlanConfig kPlan;
    if (id.hash == kernel_id(kPlan).hash)
      ++plans, run<gpu::AttentionPlanKernel<kPlan>>(shape, params, bytes);
    else if (id.hash == kernel_id(kConfig).hash)
      ++runs, run<gpu::AttentionKernel<kConfig>>(shape, params, bytes);
    else if (id.hash == kernel_id(kDecode).hash)
      ++runs, ++decodes, run<gpu::DecodeKernel<kDecode>>(shape, params, bytes);
    else if (id.hash == kernel_id(kCluster).hash)
      ++runs, ++clusters, run<gpu::DecodeKernel<kCluster>>(shape, params, bytes);
    else if (id.hash == kernel_id(kInvariantConfig).hash)
      ++runs, run<gpu::AttentionKernel<kInvariantConfig>>(shape, params, bytes);
    else if (id.hash == kernel_id(kLong).hash)
      ++runs, run<gpu::AttentionKernel<kLong>>(shape, params, bytes);
    else if (id.hash == kernel_id(kDecode16).hash)
      ++runs, ++decodes, run<gpu::DecodeKernel<kDecode16>>(shape, params, bytes);
    else
      FAIL() << id.text(id.config).kernel;
  }
  void copy_to_device(void* device, const void* host, size_t bytes, const Context& context) override {
    ++copies;
    RecordingKernels::copy_to_device(device, host, bytes, context);
  }
};

/// Lengths and numbers of a batch; what no request owns is NaN.
struct Batch {
  std::vector<int32_t> qo_indptr{0}, kv_indptr{0}, indices, last_page_len;
  std::vector<bf16> q, k, v;
  int num_pages = 0;

  Batch(const std::vector<int>& qo_lens, const std::vector<int>& kv_lens, uint32_t seed, int pool) : num_pages(pool) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<int32_t> order(static_cast<size_t>(pool));
    for (int i = 0; i < pool; ++i) order[size_t(i)] = i;
    std::shuffle(order.begin(), order.end(), random);
    q.resize(0);
    k.assign(size_t(pool) * 16 * 2 * 64, from_float<bf16>(NAN));
    v = k;
    for (size_t r = 0; r < qo_lens.size(); ++r) {
      const int pages = (kv_lens[r] + 15) / 16;
      for (int j = 0; j < kv_lens[r]; ++j) {
        const size_t at = (size_t(order[indices.size() + size_t(j / 16)]) * 16 + size_t(j % 16)) * 2 * 64;
        for (size_t d = 0; d < 128; ++d) k[at + d] = from_float<bf16>(normal(random)), v[at + d] = from_float<bf16>(normal(random));
      }
      indices.insert(indices.end(), order.begin() + std::ptrdiff_t(indices.size()), order.begin() + std::ptrdiff_t(indices.size()) + pages);
      qo_indptr.push_back(qo_indptr.back() + qo_lens[r]);
      kv_indptr.push_back(kv_indptr.back() + pages);
      last_page_len.push_back(pages ? kv_lens[r] - (pages - 1) * 16 : 0);
      for (int i = 0; i < qo_lens[r] * 4 * 64; ++i) q.push_back(from_float<bf16>(normal(random)));
    }
  }
  AttentionLengths lengths(Device device) {
    const auto view = [&](std::vector<int32_t>& a) { return TensorView(a.data(), DType::i32, {int64_t(a.size())}, device); };
    AttentionLengths lengths;
    lengths.qo_indptr = view(qo_indptr), lengths.kv_indptr = view(kv_indptr), lengths.kv_indices = view(indices);
    lengths.last_page_len = view(last_page_len);
    return lengths;
  }
  int64_t rows() const { return qo_indptr.back(); }
};

struct Result {
  std::vector<bf16> out;
  std::vector<float> lse;
};

/// A plan's two workspaces, dirty.
struct Workspace {
  std::vector<float> floats = std::vector<float>(1 << 18, NAN);
  std::vector<int64_t> ints = std::vector<int64_t>(1 << 13, -1);
  TensorView float_view(Device device) { return {floats.data(), DType::f32, {int64_t(floats.size())}, device}; }
  TensorView int_view(Device device) { return {ints.data(), DType::i64, {int64_t(ints.size())}, device}; }
};

void run_into(Result& result, const PlannedAttention& planned, Batch& batch, int64_t rows, const Context& context) {
  const Device device = context.device;
  const TensorView q(batch.q.data(), DType::bf16, {rows, 4, 64}, device), out(result.out.data(), DType::bf16, {rows, 4, 64}, device);
  const TensorView k(batch.k.data(), DType::bf16, {batch.num_pages, 16, 2, 64}, device),
      v(batch.v.data(), DType::bf16, {batch.num_pages, 16, 2, 64}, device);
  AttentionArguments args;
  args.variant.sm_scale = 0.125f;
  attention(planned, q, k, v, out, TensorView(result.lse.data(), DType::f32, {rows, 4}, device), args, context);
}

Result run(const PlannedAttention& planned, Batch& batch, const Context& context) {
  Result result{std::vector<bf16>(batch.q.size(), from_float<bf16>(NAN)), std::vector<float>(size_t(batch.rows()) * 4, NAN)};
  run_into(result, planned, batch, batch.rows(), context);
  return result;
}

void expect_near(const Result& a, const Result& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.out.size(); ++i)
    error += std::pow(to_float(a.out[i]) - to_float(b.out[i]), 2), norm += std::pow(to_float(b.out[i]), 2);
  EXPECT_LE(std::sqrt(error), 5e-3 * std::sqrt(norm));
  for (size_t i = 0; i < a.lse.size(); ++i) EXPECT_TRUE(a.lse[i] == b.lse[i] || std::abs(a.lse[i] - b.lse[i]) < 1e-2) << i;
}

Result on_cpu(const AttentionProblem& problem, Batch& batch, int32_t window_left = -1) {
  Workspace workspace;
  PlannedAttention planned = plan_attention(problem, batch.lengths({}), {}, workspace.float_view({}), workspace.int_view({}));
  plan_mask(planned, true, window_left, {});
  return run(planned, batch, {});
}

TEST(AttentionOp, FromLengthsOnTheHostAndOnTheDevice) {
  Batch batch({1, 3, 0, 2, 1}, {100, 300, 20, 2, 0}, 1, 40);
  const Result expected = on_cpu(kProblem, batch);
  for (const auto& [backend, lengths] : std::initializer_list<std::pair<AttentionBackend, Device>>{{AttentionBackend::generic, Device{}},
                                                                                                   {AttentionBackend::generic, kGpu},
                                                                                                   {AttentionBackend::decode, Device{}},
                                                                                                   {AttentionBackend::decode, kGpu}}) {
    EmulatedKernels kernels;
    const Context context{.device = kGpu, .kernels = &kernels};
    Workspace workspace;
    PlannedAttention planned = plan_attention(with(kProblem, backend), batch.lengths(lengths), {}, workspace.float_view(kGpu),
                                              workspace.int_view(kGpu), {}, context);
    const Result first = run(planned, batch, context);
    expect_near(first, expected);
    // The kernel leaves its counters as it found them.
    const Result second = run(planned, batch, context);
    EXPECT_EQ(std::memcmp(first.out.data(), second.out.data(), first.out.size() * sizeof(bf16)), 0);
    EXPECT_EQ(kernels.plans, lengths == kGpu ? 1 : 0);
    EXPECT_EQ(kernels.copies, lengths == kGpu ? 0 : 1);
    EXPECT_GT(planned.plan.max_slots, 0);
    // Another window: planned again from what lies on the device.
    plan_mask(planned, true, 70, context);
    expect_near(run(planned, batch, context), on_cpu(kProblem, batch, 70));
    EXPECT_EQ(kernels.copies, lengths == kGpu ? 0 : 1);
    EXPECT_EQ(kernels.decodes, backend == AttentionBackend::decode ? kernels.runs : 0);
  }
}

TEST(AttentionOp, OneCapturedLaunchServesOtherBatches) {
  EmulatedKernels kernels;
  const Context context{.device = kGpu, .kernels = &kernels};
  Workspace workspace;
  Batch home({1, 2, 3}, {600, 16, 16}, 1, 40);
  for (uint32_t seed = 2; seed < 6; ++seed) {
    const AttentionBackend backend = kBackends[seed % 2];
    Batch batch({int(seed % 3) + 1, 1, 2}, {int(seed) * 90, 33, seed == 3 ? 0 : 64}, seed, 40);
    const PlannedAttention planned = plan_attention(with(kProblem, backend), batch.lengths({}), home.lengths(kGpu),
                                                    workspace.float_view(kGpu), workspace.int_view(kGpu), {.reusable = true}, context);
    EXPECT_EQ(planned.plan.kv_indptr, home.kv_indptr.data());
    expect_near(run(planned, batch, context), on_cpu(kProblem, batch));
  }
}

TEST(AttentionOp, ClustersTakeFewSegments) {
  for (uint32_t seed = 1; seed < 5; ++seed) {
    EmulatedKernels kernels;
    const Context context{.device = kGpu, .kernels = &kernels};
    Batch batch({int(seed % 3) + 1}, {seed == 4 ? 0 : 230 * int(seed)}, seed, 60);
    Workspace workspace;
    const PlannedAttention planned = plan_attention(kProblem, batch.lengths(seed % 2 ? Device{} : kGpu), {}, workspace.float_view(kGpu),
                                                    workspace.int_view(kGpu), {}, context);
    expect_near(run(planned, batch, context), on_cpu(kProblem, batch));
    EXPECT_EQ(kernels.clusters, 1);
  }
}

/// What a CUDA graph holds: kernels with the parameters that they had when it was captured.
struct CapturingKernels : EmulatedKernels {
  bool captures = false;
  std::vector<std::function<void()>> graph;
  void launch(const KernelId& id, const LaunchShape& shape, const void* params, size_t bytes, const Context& context) override {
    EmulatedKernels::launch(id, shape, params, bytes, context);
    if (!captures) return;
    const std::vector<char> copy(static_cast<const char*>(params), static_cast<const char*>(params) + bytes);
    graph.push_back([this, id, shape, copy, context] { EmulatedKernels::launch(id, shape, copy.data(), copy.size(), context); });
  }
};

TEST(AttentionOp, OneGraphPlansAndRunsEveryBatch) {
  CapturingKernels kernels;
  const Context context{.device = kGpu, .kernels = &kernels};
  Workspace workspace;
  constexpr int kCapacity = 9, kPages = 80;
  Batch home(std::vector<int>(kCapacity, 1), std::vector<int>(kCapacity, 16), 1, kPages);  // whose memory the graph reads
  home.indices.resize(kPages), home.q.resize(size_t(kCapacity) * 256);
  Result result{std::vector<bf16>(home.q.size()), std::vector<float>(size_t(kCapacity) * 4)};
  AttentionLengths lengths = home.lengths(kGpu);
  lengths.qo_indptr = {};  // one token each
  kernels.captures = true;
  const PlannedAttention planned =
      plan_attention(kProblem, lengths, lengths, workspace.float_view(kGpu), workspace.int_view(kGpu), {.reusable = true}, context);
  run_into(result, planned, home, kCapacity, context);
  kernels.captures = false;
  EXPECT_EQ(kernels.copies, 0);
  ASSERT_EQ(kernels.graph.size(), 2u);
  uint32_t seed = 1;
  for (const std::vector<int>& kv_lens : std::vector<std::vector<int>>{
           {300}, {1}, {}, {0, 0, 0}, {20, 400, 0, 33}, {64, 64, 64, 64, 64, 64, 64, 64, 64}, {0, 0, 700, 0, 0, 0, 0, 0, 1}}) {
    Batch batch(std::vector<int>(kv_lens.size(), 1), kv_lens, ++seed, kPages);
    const Result expected = kv_lens.empty() ? Result{} : on_cpu(kProblem, batch);
    std::fill(home.kv_indptr.begin(), home.kv_indptr.end(), batch.kv_indptr.back());
    std::copy(batch.kv_indptr.begin(), batch.kv_indptr.end(), home.kv_indptr.begin());
    std::copy(batch.last_page_len.begin(), batch.last_page_len.end(), home.last_page_len.begin());
    std::copy(batch.indices.begin(), batch.indices.end(), home.indices.begin());
    std::copy(batch.q.begin(), batch.q.end(), home.q.begin());
    std::copy(batch.k.begin(), batch.k.end(), home.k.begin());
    std::copy(batch.v.begin(), batch.v.end(), home.v.begin());
    for (bf16& x : result.out) x = from_float<bf16>(NAN);
    for (const auto& kernel : kernels.graph) kernel();
    Result got = result;
    for (size_t i = batch.q.size(); i < got.out.size(); ++i) ASSERT_EQ(to_float(got.out[i]), 0.0f) << "a request that is not there";
    got.out.resize(batch.q.size()), got.lse.resize(size_t(batch.rows()) * 4);
    expect_near(got, expected);
  }
}

/// Whatever their lengths are, and however few partial results there is room for.
TEST(AttentionOp, ShortQueriesOfUnknownLengths) {
  struct {
    std::vector<int> qo_lens, kv_lens;
    int decodes;
  } const cases[] = {
      {{2, 2, 2}, {100, 300, 20}, 1},
      {{1, 3, 0, 2, 4}, {64, 150, 20, 2, 90}, 1},
      {{16, 0, 1, 1, 1, 1, 1}, {100, 33, 0, 7, 64, 20, 1}, 1},  // one long request: four tiles of it
      {{1, 1, 40, 1, 1, 1, 4}, {20, 90, 60, 33, 0, 1, 64}, 1},  // more queries than keys
      {{0, 0, 12}, {16, 0, 400}, 1},
      {{9, 5}, {200, 30}, 1},
      {{1, 3, 0, 2, 1}, {100, 300, 20, 2, 0}, 0},
      {{40, 40}, {50, 90}, 0},
  };
  uint32_t seed = 0;
  for (const auto& [qo_lens, kv_lens, decodes] : cases) {
    SCOPED_TRACE(++seed);
    Batch batch(qo_lens, kv_lens, seed, 60);
    EmulatedKernels kernels;
    const Context context{.device = kGpu, .kernels = &kernels};
    const AttentionProblem problem = of_qo_len(0);
    const AttentionWorkspace size = workspace_size(problem, batch.lengths(kGpu), {}, {}, context);
    for (const int64_t float_bytes : {size.float_bytes, size.float_bytes / 3, int64_t(0)}) {
      constexpr unsigned char kGuard = 0xa5;
      std::vector<unsigned char> floats(size_t(float_bytes) + 256, kGuard), ints(size_t(size.int_bytes) + 256, kGuard);
      const int launched = kernels.decodes;
      PlannedAttention planned = plan_attention(problem, batch.lengths(kGpu), {}, TensorView(floats.data(), DType::u8, {float_bytes}, kGpu),
                                                TensorView(ints.data(), DType::u8, {size.int_bytes}, kGpu), {}, context);
      for (const PlannedKernel& kernel : planned.short_plans)
        EXPECT_EQ(kernel.plan.header->num_workers > 0, batch.rows() <= int64_t(qo_lens.size()) * kernel.tile_qo_len);
      const Result first = run(planned, batch, context), second = run(planned, batch, context);
      expect_near(first, on_cpu(problem, batch));
      EXPECT_EQ(std::memcmp(first.out.data(), second.out.data(), first.out.size() * sizeof(bf16)), 0);
      plan_mask(planned, true, 30, context);
      expect_near(run(planned, batch, context), on_cpu(problem, batch, 30));
      EXPECT_EQ(kernels.decodes - launched, 3 * decodes);
      // Queries that belong to no request.
      const int64_t spare = round_up(int32_t(batch.rows()) + 1, int32_t(qo_lens.size()));
      Batch padded = batch;
      padded.q.resize(size_t(spare) * 256);
      Result result{std::vector<bf16>(padded.q.size(), from_float<bf16>(NAN)), std::vector<float>(size_t(spare) * 4, NAN)};
      run_into(result, planned, padded, spare, context);
      for (size_t i = batch.q.size(); i < result.out.size(); ++i) ASSERT_TRUE(std::isnan(to_float(result.out[i])));
      result.out.resize(batch.q.size()), result.lse.resize(size_t(batch.rows()) * 4);
      expect_near(result, on_cpu(problem, batch, 30));
      for (const auto& bytes : {floats, ints})
        for (size_t i = bytes.size() - 256; i < bytes.size(); ++i) ASSERT_EQ(bytes[i], kGuard) << "wrote past a workspace";
    }
    EXPECT_EQ(kernels.plans, 6);
    EXPECT_EQ(kernels.runs, 12);
    EXPECT_EQ(kernels.copies, 0);
  }
}

/// plan() is called between replays of a graph that run() alone is in.
TEST(AttentionOp, CapturedShortQueriesServeOtherPlans) {
  CapturingKernels kernels;
  const Context context{.device = kGpu, .kernels = &kernels};
  constexpr int kCapacity = 4, kRows = 16, kPages = 60;
  Workspace workspace;
  Batch home(std::vector<int>(kCapacity, 4), std::vector<int>(kCapacity, 16), 1, kPages);  // whose memory the graph reads
  home.indices.resize(kPages);
  AttentionProblem problem = of_qo_len(0);
  AttentionPlanOptions options{.reusable = true};
  const auto plan = [&](const AttentionLengths& lengths) {
    return plan_attention(problem, lengths, home.lengths(kGpu), workspace.float_view(kGpu), workspace.int_view(kGpu), options, context);
  };
  const PlannedAttention first = plan(home.lengths(kGpu));
  problem.max_qo_len = first.problem.max_qo_len, options.tile_qo_len = first.tile_qo_len;
  Result result{std::vector<bf16>(home.q.size()), std::vector<float>(size_t(kRows) * 4)};
  kernels.captures = true;
  run_into(result, first, home, kRows, context);
  kernels.captures = false;
  EXPECT_EQ(kernels.decodes, 1);
  uint32_t seed = 1;
  for (const std::vector<int>& qo_lens : std::vector<std::vector<int>>{{4, 4, 4, 4}, {16, 0, 0, 0}, {1, 2, 0, 3}, {1, 1, 13, 1}}) {
    Batch batch(qo_lens, {50, 300, 20 + int(seed), 64}, ++seed, kPages);
    std::copy(batch.q.begin(), batch.q.end(), home.q.begin());
    std::copy(batch.k.begin(), batch.k.end(), home.k.begin());
    std::copy(batch.v.begin(), batch.v.end(), home.v.begin());
    if (seed % 2) {
      plan(batch.lengths({}));
    } else {
      home.qo_indptr = batch.qo_indptr, home.kv_indptr = batch.kv_indptr, home.last_page_len = batch.last_page_len;
      std::copy(batch.indices.begin(), batch.indices.end(), home.indices.begin());
      plan(home.lengths(kGpu));
    }
    for (bf16& x : result.out) x = from_float<bf16>(NAN);
    for (const auto& kernel : kernels.graph) kernel();
    Result got = result;
    got.out.resize(batch.q.size()), got.lse.resize(size_t(batch.rows()) * 4);
    expect_near(got, on_cpu(problem, batch));
  }
}

TEST(AttentionOp, BatchInvariantBits) {
  EmulatedKernels kernels;
  const Context context{.device = kGpu, .kernels = &kernels};
  Batch batch({2, 3, 1}, {300, 150, 500}, 7, 70);
  Workspace workspace;
  for (const AttentionBackend backend : kBackends) {
    const AttentionProblem problem = with(invariant(), backend);
    const Result together = run(
        plan_attention(problem, batch.lengths({}), {}, workspace.float_view(kGpu), workspace.int_view(kGpu), {}, context), batch, context);
    expect_near(together, on_cpu(invariant(), batch));
    Batch alone = batch;  // the second request
    alone.qo_indptr = {0, 3}, alone.kv_indptr = {0, 10}, alone.last_page_len = {batch.last_page_len[1]};
    alone.indices.assign(batch.indices.begin() + 19, batch.indices.begin() + 29);
    alone.q.assign(batch.q.begin() + 2 * 256, batch.q.begin() + 5 * 256);
    for (const Device lengths : {Device{}, kGpu}) {
      const Result result = run(plan_attention(problem, alone.lengths(lengths), {}, workspace.float_view(kGpu), workspace.int_view(kGpu),
                                               {.num_sms = 1}, context),
                                alone, context);
      EXPECT_EQ(std::memcmp(result.out.data(), together.out.data() + 2 * 256, 3 * 256 * sizeof(bf16)), 0);
    }
  }
}

}  // namespace
}  // namespace flashinfer
