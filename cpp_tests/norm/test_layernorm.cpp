// LayerNorm on the CPU against double, and what the GPU path would launch.
#include <flashinfer/norm/layernorm.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include <flashinfer/core/number.hpp>

namespace flashinfer {
namespace {

template <class T>
std::vector<T> randoms(int64_t count, uint32_t seed, float mean = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(mean, 1);
  std::vector<T> values(count);
  for (T& value : values) value = from_float<T>(normal(random));
  return values;
}

/// ‖out - layernorm(x) / scale‖ / ‖layernorm(x) / scale‖.
template <class In, class Weight, class Out>
double error(const std::vector<In>& x, const std::vector<Weight>& gamma, const std::vector<Weight>& beta, const std::vector<Out>& out,
             double scale) {
  const int64_t n = int64_t(gamma.size());
  double error = 0, norm = 0;
  for (int64_t row = 0; row * n < int64_t(x.size()); ++row) {
    double mean = 0, squares = 0;
    for (int64_t j = 0; j < n; ++j) mean += to_float(x[row * n + j]) / double(n);
    for (int64_t j = 0; j < n; ++j) squares += std::pow(to_float(x[row * n + j]) - mean, 2) / double(n);
    for (int64_t j = 0; j < n; ++j) {
      const double expected =
          ((to_float(x[row * n + j]) - mean) / std::sqrt(squares + 1e-6) * to_float(gamma[j]) + to_float(beta[j])) / scale;
      error += std::pow(to_float(out[row * n + j]) - expected, 2), norm += expected * expected;
    }
  }
  return std::sqrt(error / norm);
}

template <class In, class Weight>
void expect_matches(int64_t hidden_size, double bound) {
  const int64_t rows = 3;
  auto x = randoms<In>(rows * hidden_size, 1, 2), y = std::vector<In>(x.size(), In{});
  auto gamma = randoms<Weight>(hidden_size, 2), beta = randoms<Weight>(hidden_size, 3);
  const TensorView input(x.data(), dtype_v<In>, {rows, hidden_size}), output(y.data(), dtype_v<In>, {rows, hidden_size});
  const TensorView g(gamma.data(), dtype_v<Weight>, {hidden_size}), b(beta.data(), dtype_v<Weight>, {hidden_size});
  layernorm(input, g, b, output);
  EXPECT_LT(error(x, gamma, beta, y, 1), bound);

  std::vector<e4m3> quantised(x.size()), expected(x.size());
  layernorm_quant(input, g, b, 0.5f, TensorView(quantised.data(), DType::e4m3, {rows, hidden_size}));
  EXPECT_LT(error(x, gamma, beta, quantised, 0.5), 4e-2);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(quantised[i].bits, from_float<e4m3>(to_float(y[i]) * 2).bits);

  layernorm(input, g, b, input);
  EXPECT_EQ(std::memcmp(x.data(), y.data(), x.size() * sizeof(In)), 0);
}

TEST(Layernorm, MatchesDouble) {
  for (int64_t hidden_size : {2, 37, 128, 1000}) {
    expect_matches<float, float>(hidden_size, 1e-6);
    expect_matches<f16, f16>(hidden_size, 5e-4);
    expect_matches<f16, float>(hidden_size, 5e-4);
    expect_matches<bf16, bf16>(hidden_size, 4e-3);
    expect_matches<bf16, float>(hidden_size, 4e-3);
  }
}

TEST(LayernormLaunch, CoversEveryRow) {
  for (auto [num_rows, hidden_size, blocks, threads] :
       {std::array{1, 4096, 1, 512}, {1000, 4096, 1000, 256}, {1000, 128, 125, 128}, {1, 131072, 1, 1024}}) {
    RecordingKernels kernels(device_info_of({90, 'a'}));
    const Device gpu{DeviceType::cuda, 0};
    auto at = [&](int address, DType dtype, std::initializer_list<int64_t> shape) {
      return TensorView(reinterpret_cast<void*>(uintptr_t(address) << 40), dtype, shape, gpu);
    };
    layernorm(at(1, DType::bf16, {num_rows, hidden_size}), at(2, DType::f32, {hidden_size}), at(3, DType::f32, {hidden_size}),
              at(4, DType::bf16, {num_rows, hidden_size}), 1e-6f, {gpu, nullptr, &kernels});
    ASSERT_EQ(kernels.launches.size(), 1u);
    EXPECT_EQ(kernels.launches[0].shape.grid.x, uint32_t(blocks));
    EXPECT_EQ(kernels.launches[0].shape.block.x, uint32_t(threads));
  }
}

TEST(LayernormTuning, EveryConfigHoldsItsRow) {
  for (DType dtype : {DType::f32, DType::bf16})
    for (int64_t num_rows : {1, 100000})
      for (int vec = 1; vec * size_of(dtype) <= 16; vec *= 2)
        for (int64_t units : {1, 3, 32, 33, 511, 513, 2000, 4096, 9999, 100000}) {
          const LayernormConfig c =
              gpu::tune(gpu::LayernormProblem{dtype, DType::f32, dtype, vec, num_rows, units * vec}, device_info_of({90, 'a'}));
          EXPECT_TRUE(is_power_of_two(c.threads_per_row) && c.threads_per_row * c.rows_per_block <= 1024);
          EXPECT_TRUE(c.vecs == 0 ? c.threads_per_row == 1024 : int64_t(c.vecs) * c.threads_per_row >= units);
        }
}

}  // namespace
}  // namespace flashinfer
