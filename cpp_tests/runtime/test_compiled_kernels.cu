// Registering kernels that nvcc compiled, and what a missing one says. No GPU needed.
#include <array>

#include <gtest/gtest.h>

#include <flashinfer/runtime/compiled_kernels.cuh>

namespace flashinfer {
namespace {

struct ScaleConfig {
  DType input = DType::f32;
  int32_t block = 128;
  static constexpr const char* kName = "ScaleConfig";
  static constexpr const char* kKernel = "ScaleKernel";
  static constexpr const char* kHeader = "scale/gpu/scale_kernel.cuh";
  template <class F>
  constexpr void for_each_field(F&& f) const {
    f("input", input), f("block", block);
  }
};

template <ScaleConfig kConfig>
struct ScaleKernel {
  struct Params {
    float* data;
    float factor;
    int32_t count;
  };
  static constexpr int kThreads = kConfig.block, kMinBlocks = 1;
  __device__ static void run(const Params& p) {
    const int i = blockIdx.x * kThreads + threadIdx.x;
    if (i < p.count) p.data[i] *= p.factor;
  }
};

constexpr std::array<ScaleConfig, 3> kConfigs = {{{.block = 32}, {.block = 64}, {.input = DType::bf16}}};

TEST(CompiledKernels, RegistersEachConfigOnce) {
  CompiledKernels kernels;
  kernels.add<ScaleConfig{.block = 256}, ScaleKernel>();
  EXPECT_EQ(kernels.size(), 1u);
  kernels.add_all<kConfigs, ScaleKernel>();
  EXPECT_EQ(kernels.size(), 4u);
  kernels.add<ScaleConfig{.block = 64}, ScaleKernel>();
  EXPECT_EQ(kernels.size(), 4u);
}

TEST(CompiledKernels, NamesTheConfigThatIsMissing) {
  CompiledKernels kernels;
  kernels.add<ScaleConfig{.block = 32}, ScaleKernel>();
  const Context context{.device = {DeviceType::cuda, 0}, .kernels = &kernels};
  const ScaleKernel<ScaleConfig{}>::Params params{};
  try {
    launch(ScaleConfig{.input = DType::bf16, .block = 96}, LaunchShape{.grid = {1}, .block = {96}}, params, context);
    FAIL() << "no error";
  } catch (const Unsupported& error) {
    EXPECT_NE(std::string(error.what()).find("ScaleKernel<ScaleConfig{.input=DType::bf16, .block=96}>"), std::string::npos) << error.what();
  }
}

TEST(CompiledKernels, RefusesParamsOfAnotherSize) {
  CompiledKernels kernels;
  kernels.add<ScaleConfig{.block = 32}, ScaleKernel>();
  const Context context{.device = {DeviceType::cuda, 0}, .kernels = &kernels};
  EXPECT_THROW(launch(ScaleConfig{.block = 32}, LaunchShape{.grid = {1}, .block = {32}}, 1.0f, context), CudaError);
}

TEST(CompiledKernels, RunsOnTheGpu) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU";
  CompiledKernels kernels;
  kernels.add_all<kConfigs, ScaleKernel>();
  EXPECT_GT(kernels.device_info(0).num_sms, 0);
  const Context context{.device = {DeviceType::cuda, 0}, .kernels = &kernels};
  float host[100], *device = nullptr;
  for (int i = 0; i < 100; ++i) host[i] = float(i) - 41.5f;
  ASSERT_EQ(cudaMalloc(&device, sizeof(host)), cudaSuccess);
  kernels.copy_to_device(device, host, sizeof(host), context);
  launch(kConfigs[1], LaunchShape{.grid = {2}, .block = {64}}, ScaleKernel<kConfigs[1]>::Params{device, -3.0f, 99}, context);
  float result[100];
  kernels.copy_to_host(result, device, sizeof(result), context);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(result[i], i < 99 ? host[i] * -3.0f : host[i]) << i;
  cudaFree(device);
}

}  // namespace
}  // namespace flashinfer
