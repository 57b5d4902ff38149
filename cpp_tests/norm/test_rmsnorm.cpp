// RMSNorm on the CPU against double, its checks, and what the GPU path would launch.
#include <flashinfer/norm/rmsnorm.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>
#include <vector>

#include <flashinfer/core/number.hpp>

namespace flashinfer {
namespace {

/// A dense or padded matrix of any dtype, with the values that rounding left.
struct Matrix {
  std::vector<unsigned char> bytes;
  TensorView view;

  Matrix(DType dtype, int64_t rows, int64_t cols, int64_t padding = 0) : bytes(size_t(rows * (cols + padding) * size_of(dtype)), 0xff) {
    view = TensorView(bytes.data(), dtype, {rows, cols});
    view.strides[0] = cols + padding;
  }
  Matrix(const Matrix& other) : bytes(other.bytes), view(other.view) { view.data = bytes.data(); }

  double at(int64_t row, int64_t col) const {
    double value = 0;
    visit([&](auto* p) { value = to_float(p[row * view.strides[0] + col]); });
    return value;
  }
  void set(int64_t row, int64_t col, float value) {
    visit([&](auto* p) { p[row * view.strides[0] + col] = from_float<std::decay_t<decltype(*p)>>(value); });
  }
  Matrix& fill(uint32_t seed, float scale = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, scale);
    for (int64_t i = 0; i < view.shape[0]; ++i)
      for (int64_t j = 0; j < view.shape[1]; ++j) set(i, j, normal(random));
    return *this;
  }
  TensorView row() const {
    TensorView v = view;
    v.ndim = 1;
    v.shape[0] = view.shape[1];
    v.strides[0] = 1;
    return v;
  }

 private:
  template <class F>
  void visit(const F& f) const {
    switch (view.dtype) {
      case DType::f32: return f(view.as<float>());
      case DType::f16: return f(view.as<f16>());
      case DType::bf16: return f(view.as<bf16>());
      case DType::e4m3: return f(view.as<e4m3>());
      default: return f(view.as<e5m2>());
    }
  }
};

double bound(DType dtype) {
  switch (dtype) {
    case DType::f32: return 1e-6;
    case DType::f16: return 5e-4;
    case DType::bf16: return 4e-3;
    case DType::e4m3: return 4e-2;
    default: return 8e-2;
  }
}

template <class F>
void expect_close(const Matrix& out, const F& expected) {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < out.view.shape[0]; ++i)
    for (int64_t j = 0; j < out.view.shape[1]; ++j) {
      const double e = expected(i, j), d = out.at(i, j) - e;
      error += d * d, norm += e * e;
    }
  EXPECT_LT(std::sqrt(error / norm), bound(out.view.dtype));  // false for NaN
}

/// rmsnorm of row i of `x(i, j)` in double.
template <class X>
double reference(const X& x, const Matrix& weight, int64_t i, int64_t j, int64_t hidden_size, double eps, double bias) {
  static thread_local std::pair<int64_t, double> cached{-1, 0};
  if (j == 0 || cached.first != i) {
    double squares = 0;
    for (int64_t k = 0; k < hidden_size; ++k) squares += x(i, k) * x(i, k);
    cached = {i, 1 / std::sqrt(squares / double(hidden_size) + eps)};
  }
  return x(i, j) * cached.second * (weight.at(0, j) + bias);
}

struct Case {
  DType input, weight, output;
  int64_t hidden_size;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << name_of(c.input) << "_" << name_of(c.weight) << "_" << name_of(c.output) << "_" << c.hidden_size;
}

class Rmsnorm : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Dtypes, Rmsnorm,
                         testing::Values(Case{DType::f32, DType::f32, DType::f32, 256}, Case{DType::f32, DType::f32, DType::e4m3, 37},
                                         Case{DType::f16, DType::f16, DType::f16, 111}, Case{DType::f16, DType::f32, DType::e5m2, 500},
                                         Case{DType::bf16, DType::bf16, DType::bf16, 1024}, Case{DType::bf16, DType::f32, DType::bf16, 3},
                                         Case{DType::bf16, DType::bf16, DType::e4m3, 4096},
                                         Case{DType::bf16, DType::f32, DType::e5m2, 16385}),
                         testing::PrintToStringParamName());

TEST_P(Rmsnorm, MatchesDouble) {
  const auto [input, weight_dtype, output, hidden_size] = GetParam();
  const Matrix x = Matrix(input, 5, hidden_size, 3).fill(1, 2), weight = Matrix(weight_dtype, 1, hidden_size).fill(2);
  auto at = [&](int64_t i, int64_t j) { return x.at(i, j); };
  for (double bias : {0.0, 1.0}) {
    Matrix y(output, 5, hidden_size, 1);
    const float scale = 0.7f;
    if (!is_float8(output)) {
      (bias == 0 ? rmsnorm : gemma_rmsnorm)(x.view, weight.row(), y.view, 1e-5f, {});
      expect_close(y, [&](int64_t i, int64_t j) { return reference(at, weight, i, j, hidden_size, 1e-5, bias); });
    } else if (bias == 0) {
      rmsnorm_quant(x.view, weight.row(), scale, y.view, 1e-5f);
      expect_close(y, [&](int64_t i, int64_t j) { return reference(at, weight, i, j, hidden_size, 1e-5, bias) / scale; });
    }
  }
}

TEST_P(Rmsnorm, FusedAddMatchesDouble) {
  const auto [input, weight_dtype, output, hidden_size] = GetParam();
  const Matrix x = Matrix(input, 4, hidden_size).fill(3), r = Matrix(input, 4, hidden_size, 2).fill(4);
  const Matrix weight = Matrix(weight_dtype, 1, hidden_size).fill(5);
  auto sum = [&](int64_t i, int64_t j) { return x.at(i, j) + r.at(i, j); };
  Matrix y(output, 4, hidden_size), residual = r, in_place = x;
  if (is_float8(output)) {
    float scale = 3;
    fused_add_rmsnorm_quant(in_place.view, residual.view, weight.row(), TensorView(&scale, DType::f32, {1}), y.view);
    EXPECT_EQ(in_place.bytes, x.bytes);
    expect_close(y, [&](int64_t i, int64_t j) { return reference(sum, weight, i, j, hidden_size, 1e-6, 0) / 3; });
  } else {
    gemma_fused_add_rmsnorm(in_place.view, residual.view, weight.row());
    expect_close(in_place, [&](int64_t i, int64_t j) { return reference(sum, weight, i, j, hidden_size, 1e-6, 1); });
  }
  expect_close(residual, sum);
}

TEST(RmsnormChecks, NameTheArgument) {
  Matrix x(DType::bf16, 4, 64), y(DType::bf16, 4, 64), narrow(DType::bf16, 4, 32), other(DType::f16, 4, 64);
  auto refused = [](const char* argument, auto&& call) {
    try {
      call();
      ADD_FAILURE() << "not refused: " << argument;
    } catch (const InvalidArgument& e) {
      EXPECT_EQ(e.argument, argument) << e.what();
      EXPECT_EQ(e.op, "rmsnorm");
    }
  };
  refused("input", [&] { rmsnorm(x.row(), x.row(), y.view); });
  refused("weight", [&] { rmsnorm(x.view, narrow.row(), y.view); });
  refused("weight", [&] { rmsnorm(x.view, other.row(), y.view); });
  Matrix weight(DType::bf16, 1, 64);
  refused("out", [&] { rmsnorm(x.view, weight.row(), narrow.view); });
  refused("out", [&] { rmsnorm(x.view, weight.row(), other.view); });
  TensorView shifted = x.view;
  shifted.data = x.view.as<bf16>() + 1;
  refused("out", [&] { rmsnorm(x.view, weight.row(), shifted); });
  refused("input", [&] { rmsnorm(x.view, weight.row(), y.view, 1e-6f, Context{{DeviceType::cuda, 0}, nullptr, nullptr}); });
}

// ---- the GPU path, without a GPU -------------------------------------------------------------------------------------

TensorView on_gpu(uintptr_t address, DType dtype, std::initializer_list<int64_t> shape) {
  return TensorView(reinterpret_cast<void*>(address), dtype, shape, {DeviceType::cuda, 0});
}

RecordingKernels::Launch launched(int64_t num_rows, int64_t hidden_size, uintptr_t address = 1 << 20, DType dtype = DType::bf16) {
  RecordingKernels kernels(device_info_of({90, 'a'}));
  const Context context{{DeviceType::cuda, 0}, nullptr, &kernels, true};
  rmsnorm(on_gpu(address, dtype, {num_rows, hidden_size}), on_gpu(2 << 20, dtype, {hidden_size}),
          on_gpu(uintptr_t(1) << 50, dtype, {num_rows, hidden_size}), 1e-6f, context);
  EXPECT_EQ(kernels.launches.size(), 1u);
  return kernels.launches[0];
}

TEST(RmsnormLaunch, CoversEveryRow) {
  const RecordingKernels::Launch one = launched(1, 4096);
  EXPECT_EQ(one.shape.grid.x, 1u);
  EXPECT_EQ(one.shape.block.x, 512u);  // a load for every thread
  EXPECT_TRUE(one.shape.pdl);
  EXPECT_EQ(one.text.header, "norm/gpu/rmsnorm_kernel.cuh");

  const RecordingKernels::Launch many = launched(5000, 4096);
  EXPECT_EQ(many.shape.block.x, 256u);
  EXPECT_EQ(many.shape.grid.x, 500u);  // 132 SMs x 4 blocks, each with 10 rows
  RmsnormParams params;
  ASSERT_EQ(many.params.size(), sizeof(params));
  std::memcpy(&params, many.params.data(), sizeof(params));
  EXPECT_EQ(params.num_rows, 5000);
  EXPECT_EQ(params.hidden_size, 4096);
  EXPECT_EQ(params.input_rows.outer_stride, 4096);
}

TEST(RmsnormLaunch, TakesTheWidestAlignedVector) {
  auto vec = [](const RecordingKernels::Launch& launch) { return launch.text.kernel.substr(launch.text.kernel.find(".vec=") + 5, 1); };
  EXPECT_EQ(vec(launched(3, 4096)), "8");
  EXPECT_EQ(vec(launched(3, 4096, 1 << 20, DType::f32)), "4");
  EXPECT_EQ(vec(launched(3, 500)), "4");
  EXPECT_EQ(vec(launched(3, 111)), "1");
  EXPECT_EQ(vec(launched(3, 4096, (1 << 20) + 4)), "2");
}

TEST(RmsnormLaunch, NothingForNoRows) {
  RecordingKernels kernels(device_info_of({80, 0}));
  const Context context{{DeviceType::cuda, 0}, nullptr, &kernels};
  rmsnorm(on_gpu(1 << 20, DType::bf16, {0, 64}), on_gpu(2 << 20, DType::bf16, {64}), on_gpu(3 << 20, DType::bf16, {0, 64}), 1e-6f, context);
  EXPECT_TRUE(kernels.launches.empty());
}

TEST(RmsnormTuning, EveryConfigHoldsItsRow) {
  for (int number : {75, 80, 90, 100})
    for (DType dtype : {DType::f32, DType::bf16})
      for (bool residual : {false, true})
        for (int64_t num_rows : {1, 100, 100000})
          for (int vec = 1; vec * size_of(dtype) <= 16; vec *= 2)
            for (int64_t units : {1, 2, 3, 31, 32, 33, 100, 511, 513, 1024, 2000, 4096, 9999, 100000}) {
              const gpu::RmsnormProblem problem{dtype, dtype, dtype, residual, vec, num_rows, units * vec};
              const RmsnormConfig c = gpu::tune(problem, device_info_of({int16_t(number), 0}));
              EXPECT_TRUE(is_power_of_two(c.threads_per_row));
              EXPECT_LE(c.threads_per_row * c.rows_per_block, 1024);
              EXPECT_GE(c.threads_per_row * c.rows_per_block, 32);
              if (c.vecs > 0) {
                EXPECT_GE(int64_t(c.vecs) * c.threads_per_row, units);
                EXPECT_LE(c.vecs * c.vec * size_of(dtype) * (residual ? 2 : 1), 64);  // registers
              } else {
                EXPECT_EQ(c.threads_per_row, 1024);
              }
            }
}

TEST(RmsnormTuning, PrecompiledListHasNoSurprises) {
  std::set<std::string> texts;
  gpu::for_each_tuned_rmsnorm({90, 'a'}, [&](const RmsnormConfig& config) { texts.insert(text_of(config)); });
  EXPECT_GE(texts.size(), 20u);
  EXPECT_LE(texts.size(), 60u);
  EXPECT_TRUE(texts.count(text_of(RmsnormConfig{}))) << "the default config is not among them: " << text_of(RmsnormConfig{});
}

}  // namespace
}  // namespace flashinfer
