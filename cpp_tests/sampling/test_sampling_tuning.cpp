// How sampling, softmax, renorm and speculative sampling are launched: clusters, shared memory, turns. On any machine.
#include <flashinfer/sampling/renorm.hpp>
#include <flashinfer/sampling/sampling.hpp>
#include <flashinfer/sampling/softmax.hpp>
#include <flashinfer/sampling/speculative.hpp>

#include <gtest/gtest.h>

namespace flashinfer {
namespace {

constexpr Arch kArchs[] = {{75}, {80}, {86}, {89}, {90, 'a'}, {100, 'a'}, {120, 'a'}};
constexpr Device kGpu{DeviceType::cuda, 0};

TEST(RowTuning, FitsEveryGpu) {
  for (Arch arch : kArchs) {
    const DeviceInfo device = device_info_of(arch);
    for (DType dtype : {DType::f32, DType::f16})
      for (int64_t vocab_size : {1, 17, 1000, 32000, 50257, 128256, 151936, 201088, 262144, 1 << 22})
        for (int64_t num_rows : {1, 2, 7, 16, 33, 64, 128, 300, 512, 4000})
          for (int32_t threads : {256, 512}) {
            const RowSplit split = gpu::split_rows(dtype, num_rows, vocab_size, device, threads);
            SCOPED_TRACE(to_string(arch) + " " + std::to_string(num_rows) + " x " + std::to_string(vocab_size));
            ASSERT_LE(split.smem_bytes(), device.smem_per_block);
            ASSERT_LE(split.blocks * (split.smem_bytes() + 1024), device.smem_per_sm + 1024);
            ASSERT_TRUE(split.blocks <= 2 && split.threads == (split.blocks == 2 ? threads : 512));
            ASSERT_TRUE(is_power_of_two(split.cluster) && split.cluster <= (arch.number < 110 ? 16 : 8));
            ASSERT_TRUE(arch.has_tma() || (split.chunks == 0 && split.cluster == 1));
            // A row may begin and end anywhere in a vector.
            ASSERT_TRUE(split.chunks == 0 || split.resident_vecs() * (16 / size_of(dtype)) >= vocab_size + 16 / size_of(dtype) - 1);
            ASSERT_TRUE(split.chunks > 0 || arch.number != 90 || vocab_size > 262144);  // rows are read once

            const LaunchShape shape = gpu::clusters_in_turn(split, num_rows, device, true);
            ASSERT_EQ(shape.grid.x % unsigned(split.cluster), 0u);
            const int64_t clusters = shape.grid.x / unsigned(split.cluster);
            ASSERT_LE(clusters, std::min(num_rows, clusters_at_once(split.cluster, split.blocks, device)));
            // No cluster has two rows more than another.
            ASSERT_LT(ceil_div(num_rows, clusters) - num_rows / clusters, 2);
            ASSERT_EQ(ceil_div(num_rows, clusters), ceil_div(num_rows, clusters_at_once(split.cluster, split.blocks, device)));
          }
  }
}

TEST(RaceTuning, FitsEveryGpu) {
  for (Arch arch : kArchs) {
    const DeviceInfo device = device_info_of(arch);
    for (DType dtype : {DType::f32, DType::f16})
      for (int kind = 0; kind < 8; ++kind)
        for (int64_t vocab_size : {1, 5, 3000, 32000, 128256, 151936, 262144, 1 << 22})
          for (int64_t num_rows : {1, 4, 5, 10, 14, 16, 21, 30, 32, 45, 48, 66, 80, 91, 132, 150, 198, 300, 512, 4000}) {
            const RowValues values = kind & 1 ? RowValues::probs : RowValues::logits;
            const RaceConfig config =
                gpu::tune(gpu::RaceProblem{dtype, values, (kind & 2) != 0, (kind & 4) != 0, num_rows, vocab_size}, device);
            SCOPED_TRACE(to_string(arch) + " " + std::to_string(kind) + ": " + std::to_string(num_rows) + " x " +
                         std::to_string(vocab_size));
            ASSERT_LE(config.smem_bytes(), device.smem_per_block);
            ASSERT_LE(config.blocks * (config.smem_bytes() + 1024), device.smem_per_sm + 1024);
            ASSERT_LE(config.cluster, !arch.has_tma() ? 1 : arch.number < 110 ? 16 : 8);
            ASSERT_EQ(config.threads % (config.columns * 32), 0);
            const int64_t vecs = vocab_size / (16 / size_of(dtype)) + 2;
            ASSERT_TRUE(config.cluster == 1 || vecs > int64_t(config.cluster) * config.threads);
            ASSERT_TRUE(config.chunks == 0 || int64_t(config.chunks) * config.cluster * config.threads >= vecs);
            // All begin at once, but for what is cut into more pieces because it is read again.
            const bool again = config.top_p && !config.counts();
            if (arch.number == 90 && vocab_size == 128256 && num_rows <= 198 && !again)
              ASSERT_LE(num_rows, clusters_at_once(config.cluster, config.blocks, device));
          }
  }
}

/// Clusters of 6 where a launch of 8 or 4 blocks a row leaves rows over, but not with filters, nor where two launches do not fit.
TEST(RaceTuning, SixBlocksARow) {
  const auto cluster = [](int64_t num_rows, bool top_p, DType dtype = DType::f32) {
    return gpu::tune(gpu::RaceProblem{dtype, RowValues::probs, top_p, false, num_rows, 128256}, device_info_of({90, 'a'})).cluster;
  };
  EXPECT_EQ(cluster(15, false), 8);
  EXPECT_EQ(cluster(16, false), 6);
  EXPECT_EQ(cluster(32, false), 6);
  EXPECT_NE(cluster(19, false), 6);
  EXPECT_NE(cluster(16, true), 6);
  EXPECT_NE(cluster(16, false, DType::bf16), 6);
}

TEST(SoftmaxTuning, FitsEveryDevice) {
  for (Arch arch : kArchs)
    for (DType dtype : {DType::f32, DType::bf16})
      for (int64_t vocab_size : {7, 32000, 128256, 151936, 262144})
        for (int64_t num_rows : {1, 16, 33, 128, 512, 4000}) {
          const DeviceInfo device = device_info_of(arch);
          const SoftmaxConfig config = gpu::tune(gpu::SoftmaxProblem{dtype, num_rows, vocab_size}, device);
          SCOPED_TRACE(to_string(arch) + " " + std::to_string(num_rows) + " x " + std::to_string(vocab_size));
          ASSERT_LE(config.smem_bytes(), device.smem_per_block);
          ASSERT_LE(config.blocks * (config.smem_bytes() + 1024), device.smem_per_sm + 1024);
          ASSERT_TRUE(config.chunks > 0 || config.cluster == 1);
          const int64_t resident = int64_t(config.chunks) * config.threads * config.cluster * (16 / size_of(dtype));
          ASSERT_TRUE(config.chunks == 0 || resident >= vocab_size + 16 / size_of(dtype) - 1);
        }
  EXPECT_EQ(gpu::tune(gpu::SoftmaxProblem{DType::f32, 512, 128256}, device_info_of({90, 'a'})).blocks, 3);
  const auto cluster = [](int64_t num_rows, int64_t vocab_size) {
    return gpu::tune(gpu::SoftmaxProblem{DType::f32, num_rows, vocab_size}, device_info_of({90, 'a'})).cluster;
  };
  EXPECT_EQ(cluster(15, 128256), 8);
  EXPECT_EQ(cluster(16, 128256), 6);
  EXPECT_EQ(cluster(19, 128256), 8);
  EXPECT_EQ(cluster(16, 1000), 1);
}

/// What cuOccupancyMaxActiveClusters says on an H200.
TEST(RowTuning, ClustersOfAnH200) {
  const DeviceInfo h200 = device_info_of({90, 'a'});
  constexpr int32_t kAtOnce[][17] = {{},  // of no, one, two ... blocks an SM: of clusters of 0, 1, 2 ... blocks
                                     {0, 132, 66, 39, 30, 22, 17, 15, 15, 9, 7, 7, 7, 7, 7, 7, 7},
                                     {0, 264, 132, 79, 62, 47, 39, 32, 30, 23, 21, 16, 16, 14, 14, 14, 14},
                                     {0, 396, 198, 124, 92, 69, 62, 47, 45, 37, 30, 28, 28, 23, 21, 21, 21},
                                     {0, 528, 264, 163, 124, 94, 79, 69, 62, 51, 44, 37, 37, 30, 30, 28, 28}};
  for (int32_t blocks = 1; blocks <= 4; ++blocks)
    for (int32_t cluster = 1; cluster <= 16; ++cluster)
      EXPECT_EQ(clusters_at_once(cluster, blocks, h200), kAtOnce[blocks][cluster]) << blocks << " blocks an SM, clusters of " << cluster;
  const RowSplit one = gpu::split_rows(DType::f32, 1, 128256, h200), many = gpu::split_rows(DType::f32, 512, 128256, h200);
  EXPECT_EQ(one.cluster, 16);
  EXPECT_EQ(many.cluster, 8);
  EXPECT_EQ(many.blocks, 2);
  EXPECT_GT(many.chunks, 8);  // the next row is on its way
}

/// The one launch of op(context), which must not read its tensors.
template <class Op>
RecordingKernels::Launch launch_of(Arch arch, const Op& op) {
  RecordingKernels kernels(device_info_of(arch));
  op(Context{.device = kGpu, .kernels = &kernels, .pdl = true});
  EXPECT_EQ(kernels.launches.size(), 1u);
  return kernels.launches.at(0);
}
TensorView on_gpu(uintptr_t address, DType dtype, std::initializer_list<int64_t> shape) {
  return TensorView(reinterpret_cast<void*>(address), dtype, shape, kGpu);
}

TEST(SamplingLaunch, IsOneKernel) {
  for (Arch arch : kArchs) {
    const TensorView logits = on_gpu(1 << 20, DType::bf16, {64, 128256}), none;
    const TensorView tokens = on_gpu(1 << 30, DType::i32, {64});
    const RecordingKernels::Launch launch = launch_of(arch, [&](const Context& context) {
      sampling(RowValues::logits, logits, none, {.top_k = 1000, .top_p = 0.9f, .min_p = 0.1f}, {}, {.tokens = tokens}, context);
    });
    EXPECT_EQ(launch.text.header, "sampling/gpu/sampling_kernel.cuh");
    EXPECT_NE(launch.text.kernel.find(
                  "SamplingKernel<SamplingConfig{.input=DType::bf16, .values=RowValues(0), .extras=false, .mixed=false, .threads="),
              std::string::npos)
        << launch.text.kernel;
    EXPECT_EQ(launch.params.size(), sizeof(SamplingParams));
    EXPECT_TRUE(launch.shape.pdl);
    EXPECT_EQ(launch.shape.cluster.x > 1, arch.has_tma());
  }
}

TEST(SamplingLaunch, ReportsOnlyWhereAsked) {
  const TensorView probs = on_gpu(1 << 20, DType::f32, {2, 1000}), none;
  SamplingOutputs outputs{.tokens = on_gpu(1 << 30, DType::i64, {2})};
  auto text = [&] {
    return launch_of({90, 'a'},
                     [&](const Context& context) { sampling(RowValues::probs, probs, none, {.top_k = 600}, {}, outputs, context); })
        .text.kernel;
  };
  EXPECT_NE(text().find(".extras=false"), std::string::npos);
  outputs.valid = on_gpu(2 << 20, DType::boolean, {2});
  EXPECT_NE(text().find(".extras=false"), std::string::npos);
  outputs.logprobs = on_gpu(3 << 20, DType::f32, {2});
  EXPECT_NE(text().find(".extras=true"), std::string::npos);
}

/// Rows that nothing cuts, or top_p and min_p, race as they are read; of the first few top_k, those are selected; filters are for the rest.
/// Where the host cannot tell, all that may have rows to draw are launched, and ask.
TEST(SamplingLaunch, OfTheKernelsThatMayDraw) {
  const TensorView logits = on_gpu(1 << 20, DType::f32, {16, 128256}), none, tokens = on_gpu(1 << 30, DType::i32, {16});
  const TensorView k = on_gpu(2 << 20, DType::i32, {16}), x = on_gpu(3 << 20, DType::f32, {16});
  for (Arch arch : kArchs) {
    auto kernels = [&](const SamplingFilters& filters) {
      RecordingKernels recorded(device_info_of(arch));
      sampling(RowValues::logits, logits, none, filters, {}, {.tokens = tokens}, {.device = kGpu, .kernels = &recorded});
      std::string names;
      for (const RecordingKernels::Launch& launch : recorded.launches) {
        SamplingParams params;
        EXPECT_EQ(launch.params.size(), sizeof(params));
        std::memcpy(&params, launch.params.data(), sizeof(params));
        EXPECT_EQ(params.mixed, recorded.launches.size() > 1);
        EXPECT_EQ(params.beside, &launch != recorded.launches.data());
        const std::string& kernel = launch.text.kernel;
        if (!kernel.starts_with("SamplingKernel")) {
          EXPECT_EQ(launch.shape.grid.x, 16 * launch.shape.cluster.x);
          EXPECT_EQ(launch.shape.cluster.x > 1, arch.has_tma());
        } else {
          EXPECT_EQ(kernel.find(".mixed=true") != std::string::npos, params.mixed);
        }
        names += (names.empty() ? "" : " ") + kernel.substr(0, kernel.find("Kernel"));
        if (kernel.find(".top_p=true") != std::string::npos) names += "(top_p)";
        if (kernel.find(".min_p=true") != std::string::npos) names += "(min_p)";
        if (kernel.find(".joint=true") != std::string::npos) names += "(joint)";
      }
      return names;
    };
    EXPECT_EQ(kernels({}), "Race");
    EXPECT_EQ(kernels({.temperature = 0.5f, .top_k = 128256}), "Race");
    EXPECT_EQ(kernels({.top_p = 0.9f}), "Race(top_p)");
    EXPECT_EQ(kernels({.top_p = x, .joint = true}), "Race(top_p)");
    EXPECT_EQ(kernels({.top_k = 512, .top_p = x, .min_p = 0.1f}), "TopkSampling");
    EXPECT_EQ(kernels({.top_k = 5, .joint = true}), "TopkSampling");
    EXPECT_EQ(kernels({.temperature = 0.0f}), "TopkSampling");
    EXPECT_EQ(kernels({.top_k = 513}), "Sampling");
    EXPECT_EQ(kernels({.top_k = 5, .top_p = 0.9f, .joint = true}), "TopkSampling(joint)");
    EXPECT_EQ(kernels({.min_p = 0.1f}), "Race(min_p)");
    EXPECT_EQ(kernels({.top_p = 0.9f, .min_p = 0.1f}), "Race(top_p)(min_p)");
    EXPECT_EQ(kernels({.top_k = 513, .min_p = 0.1f}), "Sampling");
    EXPECT_EQ(kernels({.temperature = x}), "Race TopkSampling");
    EXPECT_EQ(kernels({.top_k = k}), "Race TopkSampling Sampling");
    EXPECT_EQ(kernels({.top_k = k, .top_p = x}), "Race(top_p) TopkSampling Sampling");
    EXPECT_EQ(kernels({.top_k = k, .top_p = x, .joint = true}), "Race(top_p) TopkSampling(joint) Sampling");
    EXPECT_EQ(kernels({.min_p = x}), "Race(min_p)");
  }
}

TEST(RenormLaunch, OfTheKernelForTheFilter) {
  const TensorView logits = on_gpu(1 << 20, DType::f32, {16, 128256}), out = on_gpu(2 << 28, DType::f32, {16, 128256});
  const TensorView k = on_gpu(2 << 20, DType::i32, {16}), p = on_gpu(3 << 20, DType::f32, {16});
  auto kernels = [&](Arch arch, const auto& op) {
    RecordingKernels recorded(device_info_of(arch));
    op(Context{.device = kGpu, .kernels = &recorded});
    std::string names;
    for (const RecordingKernels::Launch& launch : recorded.launches)
      names += launch.text.kernel.substr(0, launch.text.kernel.find('<')) + " ";
    return names;
  };
  for (Arch arch : kArchs) {
    EXPECT_EQ(kernels(arch, [&](const Context& c) { top_k_mask_logits(logits, 5, out, c); }), "TopkRenormKernel ");
    EXPECT_EQ(kernels(arch, [&](const Context& c) { top_k_renorm_probs(logits, 512, out, c); }), "TopkRenormKernel ");
    EXPECT_EQ(kernels(arch, [&](const Context& c) { top_k_renorm_probs(logits, 513, out, c); }), "RenormKernel ");
    EXPECT_EQ(kernels(arch, [&](const Context& c) { top_k_mask_logits(logits, 128256, out, c); }), "RenormKernel ");
    EXPECT_EQ(kernels(arch, [&](const Context& c) { top_k_renorm_probs(logits, k, out, c); }), "TopkRenormKernel RenormKernel ");
    EXPECT_EQ(kernels(arch, [&](const Context& c) { top_p_renorm_probs(logits, 0.5f, out, c); }), "ToppRenormKernel ");
    EXPECT_EQ(kernels(arch, [&](const Context& c) { top_p_renorm_probs(logits, p, out, c); }), "ToppRenormKernel ");
    EXPECT_EQ(kernels(arch, [&](const Context& c) { top_p_renorm_probs(logits, 1.0f, out, c); }), "RenormKernel ");
    const auto both = [&](const Context& c) { detail::renorm("renorm", RowValues::probs, logits, 5, 0.5f, out, c); };
    EXPECT_EQ(kernels(arch, both), "RenormKernel ");
  }
}

/// A block a row, or clusters that run all at once; as much of a row in shared memory as fits.
TEST(ToppRenormTuning, FitsEveryGpu) {
  for (Arch arch : kArchs) {
    const DeviceInfo device = device_info_of(arch);
    for (DType dtype : {DType::f32, DType::f16})
      for (int64_t vocab_size : {1, 17, 1000, 32000, 50257, 128256, 151936, 262144, 1 << 22})
        for (int64_t num_rows : {1, 2, 7, 16, 33, 64, 128, 300, 512, 4000}) {
          SCOPED_TRACE(to_string(arch) + " " + std::to_string(num_rows) + " x " + std::to_string(vocab_size));
          const ToppRenormConfig config = gpu::tune_topp({dtype, dtype, RowValues::probs, false, num_rows, vocab_size}, device);
          ASSERT_GT(config.chunks, config.candidates > 0 ? 3 : 0);  // a sample, and what is on its way meanwhile
          ASSERT_LE(config.smem_bytes(), device.smem_per_block);
          ASSERT_LE(config.blocks * (config.smem_bytes() + 1024), device.smem_per_sm);
          ASSERT_LT(config.candidates > 0 ? vocab_size / (config.threads / 32) : 0, 1 << 16);
          ASSERT_LE(config.cluster, !arch.has_tma() ? 1 : arch.number < 110 ? 16 : 8);
          // A row that begins in the middle of a vector, too: what is held must fit, wherever the row lies.
          const int64_t most_vecs = ceil_div(vocab_size + 16 / size_of(dtype) - 1, int64_t(16 / size_of(dtype)));
          ASSERT_TRUE(!config.held || ceil_div(most_vecs, int64_t(config.cluster)) <= int64_t(config.chunks) * config.threads);
          ASSERT_TRUE(config.cluster == 1 || num_rows <= clusters_at_once(config.cluster, 1, device));
          const LaunchShape shape = gpu::cluster_a_row(config, num_rows, true);
          ASSERT_EQ(shape.grid.x, num_rows * config.cluster);
        }
  }
  const auto tuned = [](int64_t num_rows) {
    return gpu::tune_topp({DType::f32, DType::f32, RowValues::probs, false, num_rows, 128256}, device_info_of({90, 'a'}));
  };
  EXPECT_EQ(tuned(1).cluster, 16);
  EXPECT_EQ(tuned(16).cluster, 6);
  EXPECT_EQ(tuned(32).cluster, 3);
  EXPECT_EQ(tuned(64).cluster, 2);
  EXPECT_EQ(tuned(128).cluster, 1);
  // Two blocks an SM, with room for one element in eleven; one, where there is no row for the other.
  EXPECT_EQ(tuned(512).chunks, 4);
  EXPECT_EQ(tuned(512).blocks, 2);
  EXPECT_GT(tuned(512).candidates * 16 * 11, 128256);
  EXPECT_EQ(tuned(128).blocks, 1);
  EXPECT_GT(tuned(128).candidates, tuned(512).candidates);
  // A block of a pair may have most of what is kept. Larger clusters list nothing.
  EXPECT_GE(tuned(64).candidates * 16 * 4, 128256 / 2);
  EXPECT_EQ(tuned(32).candidates, 0);
  // All of the row is in shared memory.
  EXPECT_GE(int64_t(tuned(16).chunks) * tuned(16).threads * tuned(16).cluster, 128256 / 4);
  for (int64_t num_rows : {1, 8, 16, 24}) EXPECT_TRUE(tuned(num_rows).held);
  for (int64_t num_rows : {64, 128, 512}) EXPECT_FALSE(tuned(num_rows).held);
}

TEST(RowLaunches, OfTheOtherOps) {
  const TensorView logits = on_gpu(1 << 20, DType::f32, {3, 1000}), out = on_gpu(2 << 20, DType::f32, {3, 1000});
  EXPECT_EQ(launch_of({90, 'a'}, [&](const Context& c) { softmax(logits, 0.5f, out, c); }).text.header, "sampling/gpu/softmax_kernel.cuh");
  EXPECT_NE(launch_of({75}, [&](const Context& c) { top_k_renorm_probs(logits, 600, out, c); }).text.kernel.find(".values=RowValues(1)"),
            std::string::npos);
  EXPECT_NE(launch_of({75}, [&](const Context& c) { top_k_mask_logits(logits, 5, out, c); }).text.kernel.find(".values=RowValues(0)"),
            std::string::npos);
}

TEST(SpeculativeTuning, FitsEveryGpu) {
  for (Arch arch : kArchs)
    for (int64_t batch_size : {1, 16, 100, 1000})
      for (int64_t vocab_size : {10, 32000, 128256}) {
        const SpeculativeConfig config = gpu::tune(gpu::SpeculativeProblem{batch_size, vocab_size}, device_info_of(arch));
        EXPECT_GT(config.threads, 128);  // a thread a step
        EXPECT_TRUE(is_power_of_two(config.cluster) && config.cluster <= (arch.has_tma() ? 8 : 1));
        EXPECT_TRUE(batch_size > 1 || vocab_size < 1000 || config.cluster == (arch.has_tma() ? 8 : 1));
      }
}

TEST(RowTuning, VisitsWhatIsLikely) {
  for (Arch arch : kArchs) {
    int count = 0;
    gpu::for_each_tuned_sampling(arch, [&](const auto&) { ++count; });
    gpu::for_each_tuned_softmax(arch, [&](const SoftmaxConfig&) { ++count; });
    gpu::for_each_tuned_renorm(arch, [&](const auto&) { ++count; });
    gpu::for_each_tuned_speculative(arch, [&](const SpeculativeConfig&) { ++count; });
    EXPECT_GT(count, 20);
  }
}

}  // namespace
}  // namespace flashinfer
