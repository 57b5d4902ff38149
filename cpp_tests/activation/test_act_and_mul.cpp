// The gated activations on the CPU against double, and what the GPU path would launch.
#include <flashinfer/activation/act_and_mul.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include <flashinfer/core/number.hpp>

namespace flashinfer {
namespace {

using Op = void (*)(const TensorView&, const TensorView&, const Context&);

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu(double x) { return 0.5 * x * std::erfc(-x * std::sqrt(0.5)); }
double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

template <class T>
void expect_matches(Op op, double (*activation)(double), int64_t rows, int64_t dim, double bound) {
  std::mt19937 random(uint32_t(rows * 1000 + dim));
  std::normal_distribution<float> normal(0, 3);
  const int64_t stride = 2 * dim + 5;
  std::vector<T> x(rows * stride), y(rows * dim, from_float<T>(NAN));
  for (T& value : x) value = from_float<T>(normal(random));
  TensorView input(x.data(), dtype_v<T>, {rows, 2 * dim});
  input.strides[0] = stride;
  op(input, TensorView(y.data(), dtype_v<T>, {rows, dim}), {});
  double error = 0, norm = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < dim; ++j) {
      const double expected = activation(to_float(x[i * stride + j])) * to_float(x[i * stride + dim + j]);
      error += std::pow(to_float(y[i * dim + j]) - expected, 2), norm += expected * expected;
    }
  EXPECT_LT(std::sqrt(error / norm), bound) << rows << "x" << dim;
}

TEST(ActAndMul, MatchesDouble) {
  for (auto [op, activation] :
       {std::pair<Op, double (*)(double)>{silu_and_mul, silu}, {gelu_and_mul, gelu}, {gelu_tanh_and_mul, gelu_tanh}})
    for (auto [rows, dim] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {2, 64}, {1, 20000}, {50, 333}}) {
      expect_matches<float>(op, activation, rows, dim, 1e-6);
      expect_matches<f16>(op, activation, rows, dim, 5e-4);
      expect_matches<bf16>(op, activation, rows, dim, 4e-3);
    }
}

TEST(ActAndMulLaunch, CoversEveryElement) {
  const Device gpu{DeviceType::cuda, 0};
  for (auto [rows, dim, blocks, threads, vecs] :
       {std::array<int64_t, 5>{1, 14336, 7, 256, 1}, {10000, 14336, 20000, 256, 4}, {3, 24, 3, 64, 1}}) {
    RecordingKernels kernels(device_info_of({90, 'a'}));
    silu_and_mul(TensorView(reinterpret_cast<void*>(uintptr_t(1) << 40), DType::bf16, {rows, 2 * dim}, gpu),
                 TensorView(reinterpret_cast<void*>(uintptr_t(2) << 40), DType::bf16, {rows, dim}, gpu), {gpu, nullptr, &kernels});
    ASSERT_EQ(kernels.launches.size(), 1u);
    EXPECT_EQ(kernels.launches[0].shape.grid.x, uint32_t(blocks));
    EXPECT_EQ(kernels.launches[0].shape.block.x, uint32_t(threads));
    EXPECT_NE(kernels.launches[0].text.kernel.find(".vecs=" + std::to_string(vecs)), std::string::npos) << kernels.launches[0].text.kernel;
  }
}

TEST(ActAndMulLaunch, TakesTheWidestAlignedVector) {
  const Device gpu{DeviceType::cuda, 0};
  for (auto [dim, vec] : {std::pair<int64_t, int>{64, 8}, {60, 4}, {62, 2}, {63, 1}}) {
    RecordingKernels kernels(device_info_of({80, 0}));
    gelu_and_mul(TensorView(reinterpret_cast<void*>(uintptr_t(1) << 40), DType::bf16, {2, 2 * dim}, gpu),
                 TensorView(reinterpret_cast<void*>(uintptr_t(2) << 40), DType::bf16, {2, dim}, gpu), {gpu, nullptr, &kernels});
    ASSERT_EQ(kernels.launches.size(), 1u);
    EXPECT_NE(kernels.launches[0].text.kernel.find(".vec=" + std::to_string(vec) + ","), std::string::npos)
        << kernels.launches[0].text.kernel;
  }
}

}  // namespace
}  // namespace flashinfer
