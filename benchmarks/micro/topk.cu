// Times how first-k selection may be spread over blocks and rings (topk/gpu/topk_tuning.hpp chooses). Standalone:
//   nvcc -std=c++20 -O3 -Iinclude -gencode arch=compute_90a,code=sm_90a benchmarks/micro/topk.cu -o topk && ./topk
// A line is one config at one batch size: microseconds of a launch in a CUDA graph over inputs larger than L2, for top_k of 64, a token of
// the first 50 of probabilities, of these and top_p jointly, and renorm by top_k.
#include "kernel_time.cuh"

#include <flashinfer/sampling/gpu/topk_renorm_kernel.cuh>
#include <flashinfer/sampling/gpu/topk_sampling_kernel.cuh>
#include <flashinfer/topk/gpu/topk_kernel.cuh>
#include <flashinfer/topk/gpu/topk_tuning.hpp>

using namespace flashinfer;

namespace {

constexpr int64_t kVocabSize = 128256;

/// Exponentials of normal numbers of deviation 3: near enough to probabilities.
__global__ void fill(float* x, int64_t count, uint32_t seed) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    const Philox bits = philox({{uint32_t(i), uint32_t(i >> 32), seed, 0}}, 99);
    const float u = (float(bits.word[0]) + 0.5f) * 2.3283064e-10f, v = float(bits.word[1]) * 2.3283064e-10f;
    x[i] = expf(3 * sqrtf(-2 * logf(fminf(u, 0.99999994f))) * cospif(2 * v) - 16.3f);
  }
}

struct Set {
  float *probs, *out;
  int32_t* tokens;
};

constexpr TopkConfig tuned(int64_t num_rows, int32_t k) {
  return gpu::tune(gpu::TopkProblem{DType::f32, num_rows, kVocabSize, k}, device_info_of({90, 'a'}));
}

template <class Kernel>
float time_of(const TopkConfig& config, int64_t num_rows, int smem_bytes, const std::vector<typename Kernel::Params>& params) {
  return ::time_of<Kernel>(config.threads, config.cluster, int(num_rows), false, smem_bytes, params);
}

template <TopkConfig kConfig>
void print(int64_t num_rows, const std::vector<Set>& sets) {
  constexpr TopkSamplingConfig kSampling{DType::f32,   RowValues::probs, false,          kConfig.threads,
                                         kConfig.vecs, kConfig.stages,   kConfig.cluster};
  constexpr TopkSamplingConfig kJoint{DType::f32, RowValues::probs, true, kConfig.threads, kConfig.vecs, kConfig.stages, kConfig.cluster};
  constexpr TopkRenormConfig kRenorm{
      .values = RowValues::probs, .threads = kConfig.threads, .vecs = kConfig.vecs, .stages = kConfig.stages, .cluster = kConfig.cluster};
  constexpr int kCapacity = TopkSamplingConfig::kCapacity;
  std::vector<TopkParams> topk;
  std::vector<SamplingParams> sampling, joint;
  std::vector<RenormParams> renorm;
  for (const Set& set : sets) {
    TopkParams t;
    t.input = set.probs, t.row_stride = kVocabSize, t.num_rows = num_rows, t.width = kVocabSize, t.k = 64;
    t.values = set.out, t.indices = set.out + num_rows * 64, t.capacity = kCapacity, t.sorted = true;
    topk.push_back(t);
    SamplingParams s;
    s.input = set.probs, s.input_stride = kVocabSize, s.vocab_size = kVocabSize;
    s.num_rows = s.num_inputs = num_rows, s.tokens = set.tokens, s.seed.value = sampling.size(), s.top_k.value = 50;
    sampling.push_back(s);
    s.joint = true, s.top_p.value = 0.9f;
    joint.push_back(s);
    RenormParams r;
    r.input = set.probs, r.output = set.out, r.input_stride = r.output_stride = kVocabSize;
    r.num_rows = num_rows, r.vocab_size = kVocabSize, r.top_k.value = 50;
    renorm.push_back(r);
  }
  std::printf("%4d rows, cluster %2d, %4d threads, %d vectors, %d stages: ", int(num_rows), kConfig.cluster, kConfig.threads, kConfig.vecs,
              kConfig.stages);
  std::printf("top_k %.1f", time_of<TopkKernel<kConfig>>(kConfig, num_rows, kConfig.smem_bytes(kCapacity), topk));
  if constexpr (kConfig.threads >= kMostTopk)
    std::printf("  sampling %.1f  joint %.1f  renorm %.1f",
                time_of<TopkSamplingKernel<kSampling>>(kConfig, num_rows, kSampling.smem_bytes(), sampling),
                time_of<TopkSamplingKernel<kJoint>>(kConfig, num_rows, kJoint.smem_bytes(), joint),
                time_of<TopkRenormKernel<kRenorm>>(kConfig, num_rows, kRenorm.smem_bytes(), renorm));
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  check(cudaStreamCreate(&stream), "stream");
  for (int64_t num_rows : {1, 16, 64, 128, 300, 512, 2048}) {
    if (argc > 1 && num_rows != std::atoi(argv[1])) continue;
    const int64_t bytes = num_rows * kVocabSize * 4;
    std::vector<Set> sets(size_t(std::clamp<int64_t>((128 << 20) / bytes + 1, 1, 6)));
    for (Set& set : sets) {
      check(cudaMalloc(&set.probs, bytes), "memory"), check(cudaMalloc(&set.out, bytes), "memory");
      check(cudaMalloc(&set.tokens, num_rows * 4), "memory");
      fill<<<1024, 256, 0, stream>>>(set.probs, bytes / 4, uint32_t(&set - sets.data()));
    }
    if (num_rows == 1) print<tuned(1, 64)>(num_rows, sets);
    if (num_rows == 16) print<tuned(16, 64)>(num_rows, sets), print<tuned(16, kMostTopk / 2)>(num_rows, sets);
    if (num_rows < 64) continue;
    if (num_rows <= 128) {
      print<TopkConfig{.threads = 1024, .vecs = 2, .stages = 4}>(num_rows, sets);
      print<TopkConfig{.threads = 1024, .vecs = 2, .stages = 8}>(num_rows, sets);
    }
    print<TopkConfig{.threads = 512, .vecs = 2, .stages = 4}>(num_rows, sets);
    print<TopkConfig{.threads = 512, .vecs = 2, .stages = 8}>(num_rows, sets);
    print<TopkConfig{.threads = 256, .vecs = 2, .stages = 4}>(num_rows, sets);
    print<TopkConfig{.threads = 256, .vecs = 4, .stages = 4}>(num_rows, sets);
    for (Set& set : sets) cudaFree(set.probs), cudaFree(set.out), cudaFree(set.tokens);
  }
  return 0;
}
