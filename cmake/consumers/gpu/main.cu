// A server that nvcc compiles: a kernel of its own, behind the library's entry.
#include <flashinfer/gpu/entry.cuh>

struct FillKernel {
  struct Params {
    float* out;
    float value;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  __device__ static void run(const Params& params) { params.out[threadIdx.x] = params.value; }
};

int main() {
  float* out = nullptr;
  if (cudaMalloc(&out, FillKernel::kThreads * sizeof(float)) != cudaSuccess) return 1;
  flashinfer::gpu::entry<FillKernel><<<1, FillKernel::kThreads>>>({out, 1.0f});
  return cudaDeviceSynchronize() == cudaSuccess ? 0 : 1;
}
