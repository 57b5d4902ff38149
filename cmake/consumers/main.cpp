// What every consumer project builds and runs: an op on the CPU backend, as a user calls it.
#include <cmath>
#include <cstdio>

#include <flashinfer/norm/rmsnorm.hpp>

int main() {
  using flashinfer::DType;
  float input[2][3] = {{1, 2, 3}, {4, 5, 6}}, weight[3] = {1, 1, 1}, output[2][3];
  flashinfer::rmsnorm({input, DType::f32, {2, 3}}, {weight, DType::f32, {3}}, {output, DType::f32, {2, 3}});
  std::printf("%f %f %f\n", output[1][0], output[1][1], output[1][2]);
  return std::abs(output[1][2] - 6 / std::sqrt((16 + 25 + 36) / 3.0f)) < 1e-5f ? 0 : 1;
}
