// What every consumer project builds and runs: the CPU backend, as a user calls it.
#include <cstdio>
#include <flashinfer/core/tensor.hpp>

int main() {
  float values[6] = {1, 2, 3, 4, 5, 6};
  flashinfer::TensorView tensor(values, flashinfer::DType::f32, {2, 3});
  std::printf("%lld values\n", static_cast<long long>(tensor.numel()));
  return tensor.numel() == 6 ? 0 : 1;
}
