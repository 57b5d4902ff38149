// Planning and running attention through the public functions: workspaces, what goes to the device and when, what is refused.
// The GPU path runs on RecordingKernels: its "device" memory is host memory, and launches are written down.
#include <gtest/gtest.h>

#include <flashinfer/attention/attention.hpp>
#include <random>
#include <vector>

namespace flashinfer {
namespace {

constexpr Device kGpu = {DeviceType::cuda, 0};

/// Counts copies, too, and writes down what may be built ahead.
struct Recorder : RecordingKernels {
  int to_device = 0, to_host = 0;
  std::vector<uint64_t> prefetched;
  void prefetch(const KernelId& id, const Context&) override { prefetched.push_back(id.hash); }
  Recorder() : RecordingKernels(device_info_of({90, 'a'})) {}
  void copy_to_device(void* device, const void* host, size_t bytes, const Context& context) override {
    ++to_device;
    RecordingKernels::copy_to_device(device, host, bytes, context);
  }
  void copy_to_host(void* host, const void* device, size_t bytes, const Context& context) override {
    ++to_host;
    RecordingKernels::copy_to_host(host, device, bytes, context);
  }
};

/// Three requests of 40, 0 and 1000 keys in pages of 16.
struct Lengths {
  std::vector<int32_t> qo_indptr{0, 3, 3, 20}, kv_indptr{0, 3, 3, 66}, kv_indices, last_page_len{8, 0, 8};

  Lengths() {
    for (int i = 0; i < 66; ++i) kv_indices.push_back((i * 29 + 5) % 70);
  }
  AttentionLengths views(Device device, bool decode = false) {
    const auto view = [&](std::vector<int32_t>& v) { return TensorView(v.data(), DType::i32, {int64_t(v.size())}, device); };
    AttentionLengths lengths;
    if (!decode) lengths.qo_indptr = view(qo_indptr);
    lengths.kv_indptr = view(kv_indptr), lengths.kv_indices = view(kv_indices), lengths.last_page_len = view(last_page_len);
    return lengths;
  }
};

struct Memory {
  std::vector<int64_t> words;
  int64_t bytes;
  explicit Memory(int64_t bytes) : words(size_t(bytes / 8 + 1), -1), bytes(bytes) {}
  TensorView view(Device device, int64_t n = -1) { return TensorView(words.data(), DType::u8, {n < 0 ? bytes : n}, device); }
};

template <class F>
std::string refusal(const F& f) {
  try {
    f();
  } catch (const InvalidArgument& e) {
    return e.argument;
  }
  return "nothing";
}

TEST(AttentionApi, WorkspaceIsExact) {
  const AttentionProblem decode;
  for (const bool batch_invariant : {false, true}) {
    AttentionProblem problem = decode;
    problem.batch_invariant = batch_invariant;
    problem.cut_len = batch_invariant ? 128 : 0;
    Recorder kernels;
    for (const Context& context : {Context{}, Context{.device = kGpu, .kernels = &kernels}}) {
      Lengths host;
      const AttentionLengths lengths = host.views({}, true);
      const AttentionWorkspace size = workspace_size(problem, lengths, {}, {}, context);
      Memory floats(size.float_bytes), ints(size.int_bytes);
      const auto plan_in = [&](int64_t float_bytes, int64_t int_bytes) {
        return plan_attention(problem, lengths, {}, floats.view(context.device, float_bytes), ints.view(context.device, int_bytes), {},
                              context);
      };
      const PlannedAttention planned = plan_in(size.float_bytes, size.int_bytes);
      EXPECT_EQ(planned.workspace.float_bytes, size.float_bytes);
      EXPECT_EQ(planned.workspace.int_bytes, size.int_bytes);
      EXPECT_EQ(refusal([&] { plan_in(size.float_bytes, size.int_bytes - 1); }), "int_workspace");
      if (batch_invariant) {
        EXPECT_EQ(refusal([&] { plan_in(size.float_bytes - 1, size.int_bytes); }), "float_workspace");
        EXPECT_EQ(planned.plan.max_slots, planned.plan.num_heads() * 8) << "8 cuts of 1000 keys; 40 and 0 keys are not cut";
      } else {
        EXPECT_LT(plan_in(size.float_bytes - 1, size.int_bytes).max_workers, planned.max_workers);
        EXPECT_TRUE(plan_in(size.float_bytes / 3, size.int_bytes).plan.batch_invariant) << "too little for half of the workers: never cut";
        EXPECT_EQ(plan_in(0, size.int_bytes).plan.max_slots, 0);
      }
      // The bound from capacities alone holds the batch.
      const AttentionWorkspace bound = workspace_size(problem, AttentionCapacity{3, 66, true}, {}, context);
      EXPECT_GE(bound.float_bytes, size.float_bytes);
      EXPECT_GE(bound.int_bytes, size.int_bytes - (context.device.type == DeviceType::cpu ? 0 : WorkspaceLayout::kAlignment));
    }
  }
}

TEST(AttentionApi, HostLengthsGoToTheDeviceInOneCopy) {
  Recorder kernels;
  const Context gpu{.device = kGpu, .kernels = &kernels};
  Lengths host;
  const AttentionProblem problem{.causal = 1, .max_qo_len = 0};
  Memory floats(1 << 26), ints(1 << 16);
  const PlannedAttention planned = plan_attention(problem, host.views({}), {}, floats.view(kGpu), ints.view(kGpu), {}, gpu);
  EXPECT_EQ(kernels.to_device, 1);
  EXPECT_EQ(kernels.to_host, 0);
  EXPECT_TRUE(kernels.launches.empty());
  // Everything lies in the workspace, as the planner computes it.
  const AttentionPlan& plan = planned.plan;
  EXPECT_EQ(planned.total_qo_len, 20);
  EXPECT_EQ(planned.max_page, 69);
  EXPECT_EQ(std::vector<int32_t>(plan.qo_indptr, plan.qo_indptr + 4), host.qo_indptr);
  EXPECT_EQ(std::vector<int32_t>(planned.kv_indices, planned.kv_indices + 66), host.kv_indices);
  for (const void* p :
       {static_cast<const void*>(plan.kv_indptr), static_cast<const void*>(plan.header), static_cast<const void*>(planned.kv_indices)}) {
    EXPECT_GE(p, static_cast<void*>(ints.words.data()));
    EXPECT_LT(p, static_cast<void*>(ints.words.data() + ints.words.size()));
  }
  PlanHeader header;
  std::vector<WorkerStart> starts(plan.max_workers);
  std::vector<int32_t> counters(plan.max_slots);
  plan_work(plan, header, starts.data(), counters.data());
  EXPECT_EQ(header.num_units, plan.header->num_units);
  EXPECT_EQ(plan.max_workers, header.num_workers) << "idle workers are not launched";
  EXPECT_EQ(std::memcmp(starts.data(), plan.starts, starts.size() * sizeof(WorkerStart)), 0);
}

TEST(AttentionApi, DeviceLengthsStayThere) {
  Recorder kernels;
  const Context gpu{.device = kGpu, .kernels = &kernels};
  Lengths device;
  Memory floats(1 << 26), ints(1 << 16);
  const PlannedAttention planned =
      plan_attention({.causal = 1, .max_qo_len = 32}, device.views(kGpu), {}, floats.view(kGpu), ints.view(kGpu), {}, gpu);
  EXPECT_EQ(kernels.to_device, 0);
  EXPECT_EQ(kernels.to_host, 0);
  ASSERT_EQ(kernels.launches.size(), 1u);
  EXPECT_NE(kernels.launches[0].text.kernel.find("AttentionPlanKernel"), std::string::npos);
  EXPECT_EQ(planned.plan.qo_indptr, device.qo_indptr.data());
  EXPECT_EQ(planned.total_qo_len, -1);
  EXPECT_EQ(planned.max_page, -1);
  EXPECT_EQ(refusal([&] { plan_attention({}, device.views({DeviceType::cuda, 1}), {}, floats.view(kGpu), ints.view(kGpu), {}, gpu); }),
            "qo_indptr");
  // Wanted, they are read back and checked.
  device.last_page_len[2] = 17;
  Context careful = gpu;
  careful.validate = true;
  EXPECT_EQ(refusal([&] { plan_attention({}, device.views(kGpu), {}, floats.view(kGpu), ints.view(kGpu), {}, careful); }), "last_page_len");
  EXPECT_EQ(kernels.to_host, 4);
}

TEST(AttentionApi, ReusablePlansKeepAddressesAndLaunch) {
  Recorder kernels;
  const Context gpu{.device = kGpu, .kernels = &kernels};
  Lengths home, small, large;
  small.kv_indptr = {0, 1, 1, 2};
  small.kv_indices = {9, 3};
  Memory floats(1 << 26), ints(1 << 16), q(20 * 32 * 128 * 2), out(20 * 32 * 128 * 2), kv(70 * 16 * 8 * 128 * 2);
  const TensorView queries(q.words.data(), DType::bf16, {20, 32, 128}, kGpu), output(out.words.data(), DType::bf16, {20, 32, 128}, kGpu);
  const TensorView cache(kv.words.data(), DType::bf16, {70, 16, 8, 128}, kGpu);
  const AttentionLengths homes = home.views(kGpu);
  for (const int32_t cut_len : {0, 64}) {
    const AttentionProblem problem{.causal = 1, .max_qo_len = 17, .batch_invariant = cut_len > 0, .cut_len = cut_len};
    kernels.launches.clear();
    for (const AttentionLengths& lengths : {small.views({}), large.views({}), homes}) {
      const PlannedAttention planned = plan_attention(problem, lengths, homes, floats.view(kGpu), ints.view(kGpu), {.reusable = true}, gpu);
      attention(planned, queries, cache, cache, output, {}, {}, gpu);
    }
    std::vector<RecordingKernels::Launch> runs;
    for (const auto& launch : kernels.launches)
      if (launch.text.kernel.find("AttentionKernel") != std::string::npos) runs.push_back(launch);
    ASSERT_EQ(runs.size(), 3u);
    for (const auto& run : runs) {
      EXPECT_EQ(run.shape.grid, runs[0].shape.grid);
      EXPECT_EQ(run.hash, runs[0].hash);
      EXPECT_EQ(run.params, runs[0].params) << "a captured launch must serve every batch";
    }
  }
}

TEST(AttentionApi, ReplansKeepTheFirstPlansKernel) {
  Recorder kernels;
  const Context gpu{.device = kGpu, .kernels = &kernels};
  Memory floats(1 << 26), ints(1 << 16);
  Lengths home;
  for (const int32_t cut_len : {0, 64}) {
    const AttentionProblem problem{.max_qo_len = 0, .batch_invariant = cut_len > 0, .cut_len = cut_len};
    const auto plan = [&](const AttentionLengths& lengths, int32_t tile_qo_len, int32_t max_qo_len) {
      AttentionProblem p = problem;
      p.max_qo_len = max_qo_len;
      const AttentionPlanOptions options{.reusable = true, .tile_qo_len = tile_qo_len};
      return plan_attention(p, lengths, home.views(kGpu), floats.view(kGpu), ints.view(kGpu), options, gpu);
    };
    for (const Device first_lie : {kGpu, Device{}}) {  // of what is known of the lengths, only the first plan counts
      Lengths host;
      const PlannedAttention first = plan(host.views(first_lie), 0, 0);
      host.qo_indptr = {0, 1, 1, 2};
      for (const Device lie : {kGpu, Device{}}) {
        const PlannedAttention again = plan(host.views(lie), first.tile_qo_len, first.problem.max_qo_len);
        EXPECT_EQ(text_of(again.config), text_of(first.config));
        EXPECT_EQ(again.plan.max_slots, first.plan.max_slots);
        EXPECT_EQ(again.plan.max_workers, first.plan.max_workers);
        EXPECT_EQ(again.plan.starts, first.plan.starts);
      }
    }
  }
}

TEST(AttentionApi, WhatIsBuiltAheadIsWhatRuns) {
  Lengths lengths;
  Memory floats(1 << 26), ints(1 << 16), q(20 * 32 * 128 * 2), out(20 * 32 * 128 * 2), kv(70 * 16 * 8 * 128 * 2);
  const TensorView cache(kv.words.data(), DType::bf16, {70, 16, 8, 128}, kGpu);
  for (const Device lie : {kGpu, Device{}})
    for (const bool decode : {false, true})
      for (const AttentionProblem& problem : {AttentionProblem{}, AttentionProblem{.causal = 1}, AttentionProblem{.window_left = 9},
                                              AttentionProblem{.flags = {.soft_cap = true}}}) {
        Recorder kernels;
        const Context gpu{.device = kGpu, .kernels = &kernels};
        const int64_t rows = decode ? 3 : 20;
        const TensorView queries(q.words.data(), DType::bf16, {rows, 32, 128}, kGpu),
            output(out.words.data(), DType::bf16, {rows, 32, 128}, kGpu);
        const PlannedAttention planned =
            plan_attention(problem, lengths.views(lie, decode), {}, floats.view(kGpu), ints.view(kGpu), {}, gpu);
        if (lie == Device{}) EXPECT_TRUE(kernels.prefetched.empty()) << "plans are made again for every batch";
        prefetch(planned, gpu);
        AttentionArguments args;
        if (problem.flags.soft_cap) args.variant.soft_cap = 30.0f;
        attention(planned, queries, cache, cache, output, {}, args, gpu);
        ASSERT_FALSE(kernels.prefetched.empty());
        EXPECT_EQ(kernels.launches.back().hash, kernels.prefetched.back()) << kernels.launches.back().text.kernel;
      }
}

TEST(AttentionApi, OneCallForOneRequestCopiesNothing) {
  Recorder kernels;
  const Context gpu{.device = kGpu, .kernels = &kernels};
  Memory memory(1 << 24);
  const TensorView q(memory.words.data(), DType::bf16, {1, 32, 128}, kGpu), k(memory.words.data(), DType::bf16, {300, 8, 128}, kGpu);
  std::vector<int64_t> result(32 * 128);
  const TensorView out(result.data(), DType::bf16, {1, 32, 128}, kGpu);
  const AttentionProblem problem{.page_size = 0};
  const AttentionWorkspace size = single_attention_workspace(problem, 300, gpu);
  Memory workspace(size.float_bytes + size.int_bytes);
  EXPECT_LT(size.float_bytes, 2 << 20) << "5 tiles of keys for 8 heads keep few workers busy";
  single_attention(problem, q, k, k, out, {}, {}, workspace.view(kGpu), gpu);
  EXPECT_EQ(kernels.to_device + kernels.to_host, 0);
  EXPECT_EQ(kernels.launches.size(), 2u);
  EXPECT_EQ(refusal([&] { single_attention(problem, q, k, k, out, {}, {}, workspace.view(kGpu, 1000), gpu); }), "workspace");
}

/// Naive attention of one row.
std::vector<double> row_of(const std::vector<float>& q, int64_t q_at, const std::vector<float>& k, const std::vector<float>& v,
                           const std::vector<int64_t>& keys, int dim) {
  std::vector<double> out(size_t(dim), 0.0);
  double sum = 0;
  for (int64_t key : keys) {
    double logit = 0;
    for (int d = 0; d < dim; ++d) logit += double(q[size_t(q_at + d)]) * k[size_t(key + d)];
    const double weight = std::exp(logit / std::sqrt(double(dim)));
    sum += weight;
    for (int d = 0; d < dim; ++d) out[size_t(d)] += weight * v[size_t(key + d)];
  }
  for (double& x : out) x = sum > 0 ? x / sum : 0.0;
  return out;
}

TEST(AttentionApi, CpuMatchesANaiveLoop) {
  constexpr int kHeads = 4, kKvHeads = 2, kDim = 32, kPage = 16, kPages = 70;
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  const auto draw = [&](int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& x : values) x = normal(generator);
    return values;
  };
  Lengths batch;
  std::vector<float> q = draw(20 * kHeads * kDim), k = draw(kPages * kPage * kKvHeads * kDim), v = draw(kPages * kPage * kKvHeads * kDim),
                     out(q.size(), NAN);
  const TensorView queries(q.data(), DType::f32, {20, kHeads, kDim}), output(out.data(), DType::f32, {20, kHeads, kDim});
  const TensorView keys(k.data(), DType::f32, {kPages, kPage, kKvHeads, kDim}),
      values(v.data(), DType::f32, {kPages, kPage, kKvHeads, kDim});
  const AttentionProblem problem{.q = DType::f32,
                                 .kv = DType::f32,
                                 .out = DType::f32,
                                 .num_qo_heads = kHeads,
                                 .num_kv_heads = kKvHeads,
                                 .head_dim_qk = kDim,
                                 .head_dim_vo = kDim,
                                 .page_size = kPage,
                                 .causal = 1,
                                 .max_qo_len = 0};
  Memory floats(1 << 22), ints(1 << 16);
  PlannedAttention planned = plan_attention(problem, batch.views({}), {}, floats.view({}), ints.view({}));
  AttentionArguments args;
  args.variant.sm_scale = 1.0f / std::sqrt(float(kDim));
  for (const bool causal : {true, false, true}) {
    plan_mask(planned, causal, -1, {});
    attention(planned, queries, keys, values, output, {}, args, {});
    double error = 0, norm = 0;
    for (int r = 0; r < 3; ++r) {
      const int qo_len = batch.qo_indptr[r + 1] - batch.qo_indptr[r], pages = batch.kv_indptr[r + 1] - batch.kv_indptr[r];
      const int kv_len = pages ? (pages - 1) * kPage + batch.last_page_len[r] : 0;
      for (int i = 0; i < qo_len; ++i) {
        for (int h = 0; h < kHeads; ++h) {
          std::vector<int64_t> seen;
          for (int j = 0; j < (causal ? kv_len - qo_len + i + 1 : kv_len); ++j)
            seen.push_back(((int64_t(batch.kv_indices[batch.kv_indptr[r] + j / kPage]) * kPage + j % kPage) * kKvHeads + h / 2) * kDim);
          const int64_t at = ((batch.qo_indptr[r] + i) * kHeads + h) * kDim;
          const std::vector<double> expected = row_of(q, at, k, v, seen, kDim);
          for (int d = 0; d < kDim; ++d) error += std::pow(out[size_t(at + d)] - expected[d], 2), norm += std::pow(expected[d], 2);
        }
      }
    }
    EXPECT_LT(std::sqrt(error / norm), 1e-5) << "causal " << causal;
  }
}

TEST(AttentionApi, RefusesWhatDoesNotFitThePlan) {
  Lengths batch;
  Memory floats(1 << 24), ints(1 << 16), memory(1 << 23);
  const AttentionProblem problem{.max_qo_len = 0};
  const PlannedAttention planned = plan_attention(problem, batch.views({}), {}, floats.view({}), ints.view({}));
  const auto tensor = [&](std::initializer_list<int64_t> shape, DType dtype = DType::bf16) {
    return TensorView(memory.words.data(), dtype, shape);
  };
  std::vector<int64_t> result(20 * 32 * 128 / 4);
  const TensorView q = tensor({20, 32, 128}), cache = tensor({70, 16, 8, 128}), out(result.data(), DType::bf16, {20, 32, 128});
  const auto run = [&](const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& out, const TensorView& lse = {},
                       const AttentionArguments& args = {}) { return refusal([&] { attention(planned, q, k, v, out, lse, args, {}); }); };
  EXPECT_EQ(run(tensor({19, 32, 128}), cache, cache, out), "q");
  EXPECT_EQ(run(tensor({20, 16, 128}), cache, cache, out), "q");
  EXPECT_EQ(run(tensor({20, 32, 128}, DType::f16), cache, cache, out), "q");
  EXPECT_EQ(run(q, tensor({70, 8, 8, 128}), cache, out), "k");
  EXPECT_EQ(run(q, tensor({69, 16, 8, 128}), tensor({69, 16, 8, 128}), out), "kv_indices") << "page 69 is in use";
  EXPECT_EQ(run(q, cache, tensor({71, 16, 8, 128}), out), "v");
  EXPECT_EQ(run(q, cache, cache, q), "out");
  EXPECT_EQ(run(q, cache, cache, TensorView(result.data(), DType::f16, {20, 32, 128})), "out");
  EXPECT_EQ(run(q, cache, cache, out, tensor({20, 31}, DType::f32)), "lse");
  AttentionArguments args;
  args.sinks = tensor({31}, DType::f32);
  EXPECT_EQ(run(q, cache, cache, out, {}, args), "sinks");
  args = {};
  args.custom_mask = tensor({1000}, DType::u8);
  EXPECT_EQ(run(q, cache, cache, out, {}, args), "custom_mask") << "none was planned";
  args = {};
  args.variant.sm_scale = NAN;
  EXPECT_EQ(run(q, cache, cache, out, {}, args), "sm_scale");
  const auto plan = [&](auto&& change) {
    AttentionProblem p = problem;
    Lengths lengths;
    change(p, lengths);
    return refusal([&] { plan_attention(p, lengths.views({}), {}, floats.view({}), ints.view({})); });
  };
  EXPECT_EQ(plan([](AttentionProblem& p, Lengths&) { p.head_dim_qk = 100; }), "head_dim_qk");
  EXPECT_EQ(plan([](AttentionProblem& p, Lengths&) { p.num_qo_heads = 9; }), "num_qo_heads");
  EXPECT_EQ(plan([](AttentionProblem&, Lengths& l) { l.kv_indptr[1] = 70; }), "kv_indptr");
  EXPECT_EQ(plan([](AttentionProblem&, Lengths& l) { l.kv_indptr[3] = 67; }), "kv_indptr");
  EXPECT_EQ(plan([](AttentionProblem&, Lengths& l) { l.last_page_len[0] = 0; }), "last_page_len");
  EXPECT_EQ(plan([](AttentionProblem&, Lengths& l) { l.last_page_len[1] = 99; }), "nothing") << "that request has no page";
  EXPECT_EQ(plan([](AttentionProblem&, Lengths& l) { l.qo_indptr[0] = 1; }), "qo_indptr");
  EXPECT_EQ(plan([](AttentionProblem&, Lengths& l) { l.kv_indices[65] = -1; }), "kv_indices");
}

/// Any strides, where the scales lie; the kernel has what the call asks for.
TEST(AttentionApi, ScalesGoToTheKernelAsTheyLie) {
  Recorder kernels;
  const Context gpu{.device = kGpu, .kernels = &kernels};
  Lengths batch;
  Memory floats(1 << 24), ints(1 << 16), memory(1 << 23);
  std::vector<int64_t> result(20 * 32 * 128 / 4);
  std::vector<float> numbers(1 << 16);
  const auto tensor = [&](std::initializer_list<int64_t> shape, DType dtype) {
    return TensorView(memory.words.data(), dtype, shape, kGpu);
  };
  const auto scales = [&](std::initializer_list<int64_t> shape) { return TensorView(numbers.data(), DType::f32, shape, kGpu); };
  const TensorView q = tensor({20, 32, 128}, DType::bf16), out(result.data(), DType::bf16, {20, 32, 128}, kGpu);
  for (const auto backend : {AttentionBackend::generic, AttentionBackend::decode}) {
    const AttentionProblem problem{.kv = DType::e4m3, .max_qo_len = 16, .backend = backend};
    const PlannedAttention planned = plan_attention(problem, batch.views({}), {}, floats.view(kGpu), ints.view(kGpu), {}, gpu);
    const TensorView cache = tensor({70, 16, 8, 128}, DType::e4m3);
    const auto run = [&](const AttentionArguments& args) {
      return refusal([&] { attention(planned, q, cache, cache, out, {}, args, gpu); });
    };
    const auto launched = [&] { return kernels.launches.back().text.kernel; };
    const auto params = [&] { return *reinterpret_cast<const AttentionParams*>(kernels.launches.back().params.data()); };
    EXPECT_EQ(run({}), "nothing");
    EXPECT_NE(launched().find("head_scales=false, .token_scales=false"), std::string::npos);
    AttentionArguments args;
    args.q_scale = scales({32}), args.k_scale = scales({1}), args.v_scale = scales({8});
    EXPECT_EQ(run(args), "nothing");
    EXPECT_NE(launched().find("head_scales=true, .token_scales=false"), std::string::npos);
    EXPECT_EQ(params().scales.q_head_stride, 1);
    EXPECT_EQ(params().scales.k_head_stride, 0) << "one for all heads";
    EXPECT_EQ(params().scales.v_head, numbers.data());
    args = {};
    args.k_scale = scales({70, 16, 8});
    args.v_scale = TensorView(numbers.data(), DType::f32, {70, 16, 8}, kGpu);
    args.v_scale.strides[1] = 1, args.v_scale.strides[2] = 16;  // HND
    EXPECT_EQ(run(args), "nothing");
    EXPECT_NE(launched().find("head_scales=false, .token_scales=true"), std::string::npos);
    EXPECT_EQ(params().scales.v_stride_page, 128);
    EXPECT_EQ(params().scales.v_stride_token, 1);
    EXPECT_EQ(params().scales.v_stride_head, 16);
    for (const auto& wrong : {scales({7}), scales({32}), scales({70, 16}), scales({70, 8, 16}), scales({69, 16, 8}),
                              tensor({8}, DType::bf16), TensorView(numbers.data(), DType::f32, {8})}) {
      args = {};
      args.k_scale = wrong;
      EXPECT_EQ(run(args), "k_scale");
      args = {};
      args.v_scale = wrong;
      EXPECT_EQ(run(args), "v_scale");
    }
    for (const auto& wrong : {scales({8}), scales({1, 32}), scales({70, 16, 32}), tensor({32}, DType::bf16)}) {
      args = {};
      args.q_scale = wrong;
      EXPECT_EQ(run(args), "q_scale");
    }
  }
}

TEST(AttentionApi, SaysWhatNoKernelTakesWhenItPlans) {
  Recorder kernels;
  const Context gpu{.device = kGpu, .kernels = &kernels};
  const AttentionProblem f32{.q = DType::f32, .kv = DType::f32, .out = DType::f32};
  EXPECT_GT(workspace_size(f32, AttentionCapacity{}).int_bytes, 0);
  EXPECT_THROW(workspace_size(f32, AttentionCapacity{}, {}, gpu), Unsupported);
}

TEST(AttentionApi, NoRequestsNoRows) {
  Memory floats(1 << 16), ints(1 << 14);
  std::vector<int32_t> zero{0};
  int32_t none = 0;
  AttentionLengths lengths;
  lengths.qo_indptr = lengths.kv_indptr = TensorView(zero.data(), DType::i32, {1});
  lengths.kv_indices = lengths.last_page_len = TensorView(&none, DType::i32, {0});
  const PlannedAttention planned = plan_attention({}, lengths, {}, floats.view({}), ints.view({}));
  const TensorView q(&none, DType::bf16, {0, 32, 128}), cache(&none, DType::bf16, {0, 16, 8, 128});
  attention(planned, q, cache, cache, q, {}, {}, {});
}

}  // namespace
}  // namespace flashinfer
