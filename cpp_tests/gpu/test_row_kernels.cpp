// The kernels of rmsnorm, layernorm and act_and_mul, emulated: the op is called as on a GPU of two SMs, what it would launch is written
// down, and the kernel runs that. The results are compared with the CPU twin's.
#include <flashinfer/activation/act_and_mul.hpp>
#include <flashinfer/norm/layernorm.hpp>
#include <flashinfer/norm/rmsnorm.hpp>

#include <gtest/gtest.h>

#include <cpp_tests/gpu/emulation/emulator.hpp>

#include <flashinfer/activation/gpu/act_and_mul_kernel.cuh>
#include <flashinfer/norm/gpu/layernorm_kernel.cuh>
#include <flashinfer/norm/gpu/rmsnorm_kernel.cuh>

namespace flashinfer {
namespace {

constexpr DeviceInfo kDevice{{90, 'a'}, 2, 227 << 10, 228 << 10, 50 << 20};
constexpr Device kGpu{DeviceType::cuda, 0};

/// Elements of one dtype in memory, random or NaN, and views of them as the CPU's or the GPU's.
template <class T>
struct Array {
  std::vector<T> data;
  explicit Array(int64_t count) : data(count, from_float<T>(NAN)) {}
  Array(int64_t count, uint32_t seed) : data(count) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (T& x : data) x = from_float<T>(normal(random));
  }
  TensorView view(Device device, std::initializer_list<int64_t> shape, int64_t row_stride = 0) {
    TensorView v(data.data(), dtype_v<T>, shape, device);
    if (row_stride) v.strides[v.ndim - 2] = row_stride;
    if (row_stride && v.ndim == 3) v.strides[0] = row_stride * (v.shape[1] + 1);
    return v;
  }
};

/// Calls op(device, context) to learn the launch, and runs the kernel as launched.
template <class Kernel, class Config, class Op>
void emulate(const Config& config, const Op& op) {
  RecordingKernels kernels(kDevice);
  op(kGpu, Context{kGpu, nullptr, &kernels});
  ASSERT_EQ(kernels.launches.size(), 1u);
  const RecordingKernels::Launch& launch = kernels.launches[0];
  ASSERT_EQ(launch.text.kernel, std::string(Config::kKernel) + "<" + text_of(config) + ">");
  ASSERT_EQ(launch.shape.block.x, unsigned(Kernel::kThreads));
  typename Kernel::Params params;
  ASSERT_EQ(launch.params.size(), sizeof(params));
  std::memcpy(&params, launch.params.data(), sizeof(params));
  emulation::Block::run_grid(launch.shape.grid.x, launch.shape.block.x, 0, 1, [&] { Kernel::run(params); });
}

template <class T>
void expect_equal(const Array<T>& a, const Array<T>& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.data.size(); ++i) {
    const double x = to_float(a.data[i]), y = to_float(b.data[i]);
    ASSERT_EQ(std::isnan(x), std::isnan(y)) << "element " << i;
    if (!std::isnan(x)) error += (x - y) * (x - y), norm += y * y;
  }
  ASSERT_GT(norm, 0);
  EXPECT_LT(std::sqrt(error / norm), sizeof(T) == 4 ? 1e-6 : sizeof(T) == 2 ? 2e-3 : 3e-2);  // a rounding may fall the other way
}

struct Shape {
  int64_t num_rows, hidden_size;
  int64_t num_heads = 0;
};

template <RmsnormConfig kConfig>
void expect_rmsnorm(Shape s) {
  using In = number_t<kConfig.input>;
  using Out = number_t<kConfig.output>;
  const int64_t stride = s.hidden_size + (s.num_heads ? kConfig.vec : 0), count = s.num_rows * stride * (s.num_heads + 1);
  Array<In> input(count, 1), residual(count, 2), in_place = input, residual_twin = residual;
  Array<number_t<kConfig.weight>> weight(s.hidden_size, 3);
  Array<Out> output(count), output_twin(count);
  auto call = [&](Array<In>& x, Array<In>& r, Array<Out>& y, Device device, const Context& context) {
    auto view = [&](auto& array) {
      return s.num_heads ? array.view(device, {s.num_rows, s.num_heads, s.hidden_size}, stride)
                         : array.view(device, {s.num_rows, s.hidden_size}, stride);
    };
    const TensorView w = weight.view(device, {s.hidden_size});
    if constexpr (is_float8(kConfig.output) && kConfig.residual)
      fused_add_rmsnorm_quant(view(x), view(r), w, 0.3f, view(y), 1e-5f, context);
    else if constexpr (is_float8(kConfig.output))
      rmsnorm_quant(view(x), w, 0.3f, view(y), 1e-5f, context);
    else if constexpr (kConfig.residual)
      gemma_fused_add_rmsnorm(view(x), view(r), w, 1e-5f, context);
    else
      gemma_rmsnorm(view(x), w, view(y), 1e-5f, context);
  };
  emulate<RmsnormKernel<kConfig>>(kConfig,
                                  [&](Device device, const Context& context) { call(in_place, residual, output, device, context); });
  call(input, residual_twin, output_twin, {}, {});
  if (kConfig.residual) expect_equal(residual, residual_twin);
  if (kConfig.residual && !is_float8(kConfig.output))
    expect_equal(in_place, input);
  else
    expect_equal(output, output_twin);
}

constexpr RmsnormConfig rmsnorm_config(DType input, DType weight, DType output, bool residual, int vec, Shape s) {
  return gpu::tune(gpu::RmsnormProblem{input, weight, output, residual, vec, s.num_rows * max(s.num_heads, int64_t(1)), s.hidden_size},
                   kDevice);
}

template <DType kInput, DType kWeight, DType kOutput, int kVec, int64_t kRows, int64_t kHidden, int64_t kHeads = 0>
void expect_rmsnorm() {
  constexpr Shape kShape{kRows, kHidden, kHeads};
  expect_rmsnorm<rmsnorm_config(kInput, kWeight, kOutput, false, kVec, kShape)>(kShape);
  expect_rmsnorm<rmsnorm_config(kInput, kWeight, kOutput, true, kVec, kShape)>(kShape);
}

constexpr DType f32_ = DType::f32, f16_ = DType::f16, bf16_ = DType::bf16;

TEST(RmsnormKernel, RowsInRegisters) {
  expect_rmsnorm<bf16_, bf16_, bf16_, 8, 1, 2048>();   // few rows: a load for every thread
  expect_rmsnorm<bf16_, bf16_, bf16_, 8, 40, 2048>();  // many: blocks take rows in turn
  expect_rmsnorm<f16_, f32_, f16_, 4, 23, 500>();
  expect_rmsnorm<bf16_, f32_, DType::e4m3, 1, 30, 111>();
  expect_rmsnorm<f32_, f32_, f32_, 4, 17, 640>();
  expect_rmsnorm<f16_, f16_, DType::e5m2, 2, 9, 10>();
  expect_rmsnorm<f32_, f32_, f32_, 1, 5, 1>();
}

TEST(RmsnormKernel, RowsOfBigBlocks) {
  expect_rmsnorm<bf16_, bf16_, bf16_, 8, 5, 16384>();
  expect_rmsnorm<bf16_, bf16_, bf16_, 1, 3, 2049>();
}

TEST(RmsnormKernel, RowsReadTwice) {
  expect_rmsnorm<bf16_, bf16_, bf16_, 8, 5, 65536 + 8>();
  expect_rmsnorm<f32_, f32_, DType::e4m3, 4, 2, 40004>();
}

TEST(RmsnormKernel, Heads) {
  expect_rmsnorm<bf16_, bf16_, bf16_, 8, 9, 128, 5>();
  expect_rmsnorm<f16_, f16_, f16_, 8, 13, 64, 3>();
  expect_rmsnorm<bf16_, f32_, bf16_, 2, 6, 66, 3>();
}

template <DType kInput, DType kWeight, DType kOutput, int kVec, int64_t kRows, int64_t kHidden>
void expect_layernorm() {
  constexpr LayernormConfig kConfig = gpu::tune(gpu::LayernormProblem{kInput, kWeight, kOutput, kVec, kRows, kHidden}, kDevice);
  Array<number_t<kInput>> input(kRows * kHidden, 1);
  Array<number_t<kWeight>> gamma(kHidden, 2), beta(kHidden, 3);
  Array<number_t<kOutput>> output(kRows * kHidden), twin(kRows * kHidden);
  float scale = 0.2f;
  auto call = [&](auto& y, Device device, const Context& context) {
    const TensorView x = input.view(device, {kRows, kHidden}), g = gamma.view(device, {kHidden}), b = beta.view(device, {kHidden}),
                     out = y.view(device, {kRows, kHidden});
    if constexpr (is_float8(kOutput))
      layernorm_quant(x, g, b, TensorView(&scale, DType::f32, {1}, device), out, 1e-5f, context);
    else
      layernorm(x, g, b, out, 1e-5f, context);
  };
  emulate<LayernormKernel<kConfig>>(kConfig, [&](Device device, const Context& context) { call(output, device, context); });
  call(twin, {}, {});
  expect_equal(output, twin);
}

TEST(LayernormKernel, MatchesItsTwin) {
  expect_layernorm<bf16_, f32_, bf16_, 8, 1, 2048>();
  expect_layernorm<bf16_, f32_, DType::e4m3, 8, 20, 2048>();
  expect_layernorm<f16_, f16_, f16_, 1, 7, 111>();
  expect_layernorm<f32_, f32_, f32_, 4, 30, 128>();
  expect_layernorm<f32_, f32_, f32_, 1, 2, 20001>();
}

template <Activation kActivation, DType kDtype, int kVec, int64_t kRows, int64_t kDim>
void expect_act_and_mul() {
  constexpr ActAndMulConfig kConfig = gpu::tune(gpu::ActAndMulProblem{kActivation, kDtype, kVec, kRows, kDim}, kDevice);
  using T = number_t<kDtype>;
  Array<T> input(kRows * 2 * kDim, 1), output(kRows * kDim), twin(kRows * kDim);
  auto call = [&](Array<T>& y, Device device, const Context& context) {
    constexpr auto kOps = kActivation == Activation::silu   ? silu_and_mul
                          : kActivation == Activation::gelu ? gelu_and_mul
                                                            : gelu_tanh_and_mul;
    kOps(input.view(device, {kRows, 2 * kDim}), y.view(device, {kRows, kDim}), context);
  };
  emulate<ActAndMulKernel<kConfig>>(kConfig, [&](Device device, const Context& context) { call(output, device, context); });
  call(twin, {}, {});
  expect_equal(output, twin);
}

TEST(ActAndMulKernel, MatchesItsTwin) {
  expect_act_and_mul<Activation::silu, bf16_, 8, 3, 4096>();
  expect_act_and_mul<Activation::silu, bf16_, 8, 70, 6000>();
  expect_act_and_mul<Activation::gelu, f16_, 4, 5, 700>();
  expect_act_and_mul<Activation::gelu, f32_, 1, 4, 33>();
  expect_act_and_mul<Activation::gelu_tanh, f32_, 4, 3, 1000>();
  expect_act_and_mul<Activation::gelu_tanh, bf16_, 1, 150, 301>();
}

}  // namespace
}  // namespace flashinfer
