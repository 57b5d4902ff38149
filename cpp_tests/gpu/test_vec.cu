// The conversions of gpu/vec.cuh on a GPU, every bit pattern of the narrow formats and every rounding case, against core/number.hpp.
#include <flashinfer/gpu/vec.cuh>

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace flashinfer {
namespace {

template <class From, class To, int N>
__global__ void convert(const From* in, To* out, int count) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (i >= count) return;
  float values[N];
  gpu::Vec<From, N>::load(in + i).to_float(values);
  gpu::Vec<To, N>::from_float(values).store(out + i);
}

template <class From, class To, int N>
std::vector<To> converted(const std::vector<From>& in) {
  From* from = nullptr;
  To* to = nullptr;
  std::vector<To> out(in.size());
  EXPECT_EQ(cudaMalloc(&from, in.size() * sizeof(From)), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&to, in.size() * sizeof(To)), cudaSuccess);
  cudaMemcpy(from, in.data(), in.size() * sizeof(From), cudaMemcpyHostToDevice);
  convert<From, To, N><<<int(in.size() / N + 127) / 128, 128>>>(from, to, int(in.size()));
  EXPECT_EQ(cudaMemcpy(out.data(), to, out.size() * sizeof(To), cudaMemcpyDeviceToHost), cudaSuccess);
  cudaFree(from), cudaFree(to);
  return out;
}

template <class T>
using Bits = decltype(T::bits);

template <class T, int N>
void expect_every_value_widens_exactly() {
  std::vector<T> in(1 << (8 * sizeof(T)));
  for (size_t i = 0; i < in.size(); ++i) in[i] = T{Bits<T>(i)};
  const std::vector<float> out = converted<T, float, N>(in);
  for (size_t i = 0; i < in.size(); ++i) {
    const float expected = to_float(in[i]);
    ASSERT_TRUE(std::isnan(expected) ? std::isnan(out[i]) : bit_cast<uint32_t>(out[i]) == bit_cast<uint32_t>(expected))
        << i << ": " << out[i];
  }
}

template <class T, int N>
void expect_rounding_to_nearest_even() {
  std::vector<float> in;
  for (uint32_t i = 0; i < (1u << 16); ++i)
    for (uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) in.push_back(bit_cast<float>(i << 16 | low));
  for (int i = 0; i + 1 < (1 << (8 * sizeof(T))); ++i) {
    const float middle = to_float(T{Bits<T>(i)}) / 2 + to_float(T{Bits<T>(i + 1)}) / 2;
    for (float x : {middle, std::nextafter(middle, -INFINITY), std::nextafter(middle, INFINITY)}) in.push_back(x);
  }
  while (in.size() % 16) in.push_back(0);
  const std::vector<T> out = converted<float, T, N>(in);
  for (size_t i = 0; i < in.size(); ++i) {
    const T expected = from_float<T>(in[i]);
    ASSERT_TRUE(std::isnan(in[i]) ? std::isnan(to_float(out[i])) : out[i].bits == expected.bits)
        << in[i] << ": " << to_float(out[i]) << " not " << to_float(expected);
  }
}

TEST(GpuVec, EveryValueWidensExactly) {
  expect_every_value_widens_exactly<f16, 8>();
  expect_every_value_widens_exactly<f16, 1>();
  expect_every_value_widens_exactly<bf16, 8>();
  expect_every_value_widens_exactly<bf16, 2>();
  expect_every_value_widens_exactly<e4m3, 16>();
  expect_every_value_widens_exactly<e4m3, 4>();
  expect_every_value_widens_exactly<e4m3, 1>();
  expect_every_value_widens_exactly<e5m2, 16>();
  expect_every_value_widens_exactly<e5m2, 2>();
}

TEST(GpuVec, RoundsToNearestEven) {
  expect_rounding_to_nearest_even<f16, 8>();
  expect_rounding_to_nearest_even<f16, 1>();
  expect_rounding_to_nearest_even<bf16, 8>();
  expect_rounding_to_nearest_even<bf16, 2>();
  expect_rounding_to_nearest_even<e4m3, 16>();
  expect_rounding_to_nearest_even<e4m3, 1>();
  expect_rounding_to_nearest_even<e5m2, 8>();
  expect_rounding_to_nearest_even<e5m2, 2>();
}

}  // namespace
}  // namespace flashinfer
