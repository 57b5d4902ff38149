// Times how rows of a vocabulary may be spread over blocks (sampling/gpu/row_tuning.hpp chooses). Standalone; a part of the splits each:
//   for i in 0 1 2 3; do nvcc -std=c++20 -O3 -DPART=$i -Iinclude -gencode arch=compute_90a,code=sm_90a benchmarks/micro/sampling.cu -o s$i
//   & done; wait for i in 0 1 2 3; do ./s$i; done
// A line is one split at one batch size: microseconds of a launch in a CUDA graph over inputs larger than L2. "only n fit" means that the
// GPU runs fewer clusters at a time than were launched: those left over wait for a whole turn.
#include "kernel_time.cuh"

#include <flashinfer/sampling/gpu/race_kernel.cuh>
#include <flashinfer/sampling/gpu/renorm_kernel.cuh>
#include <flashinfer/sampling/gpu/row_tuning.hpp>
#include <flashinfer/sampling/gpu/sampling_kernel.cuh>
#include <flashinfer/sampling/gpu/sampling_tuning.hpp>
#include <flashinfer/sampling/gpu/softmax_kernel.cuh>

using namespace flashinfer;

namespace {

constexpr int64_t kVocabSize = 128256;

/// Normal logits of deviation 3, or their exponentials.
__global__ void fill(float* x, int64_t count, uint32_t seed, bool exponential) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    const Philox bits = philox({{uint32_t(i), uint32_t(i >> 32), seed, 0}}, 99);
    const float u = (float(bits.word[0]) + 0.5f) * 2.3283064e-10f, v = float(bits.word[1]) * 2.3283064e-10f;
    const float z = 3 * sqrtf(-2 * logf(fminf(u, 0.99999994f))) * cospif(2 * v);
    x[i] = exponential ? expf(z - 16.3f) : z;
  }
}

struct Set {
  float *logits, *probs, *out;
  int32_t* tokens;
};

template <class Kernel>
float time_of(const RowSplit& split, int clusters, bool at_once, int smem_bytes, const std::vector<typename Kernel::Params>& params) {
  return ::time_of<Kernel>(split.threads, split.cluster, clusters, at_once, smem_bytes, params);
}

/// Clusters that take rows in turn.
template <class Kernel>
float time_of(const RowSplit& split, int64_t num_rows, const std::vector<typename Kernel::Params>& params) {
  const int64_t turns = ceil_div(num_rows, clusters_at_once(split.cluster, split.blocks, device_info_of({90, 'a'})));
  return time_of<Kernel>(split, int(ceil_div(num_rows, turns)), true, split.smem_bytes(), params);
}
template <RowSplit kSplit>
void print(int64_t num_rows, const std::vector<Set>& sets) {
  constexpr SamplingConfig kOfLogits{
      .values = RowValues::logits, .threads = kSplit.threads, .cluster = kSplit.cluster, .chunks = kSplit.chunks, .blocks = kSplit.blocks};
  constexpr SamplingConfig kOfProbs{
      .values = RowValues::probs, .threads = kSplit.threads, .cluster = kSplit.cluster, .chunks = kSplit.chunks, .blocks = kSplit.blocks};
  constexpr SoftmaxConfig kSoftmax{.threads = kSplit.threads, .cluster = kSplit.cluster, .chunks = kSplit.chunks, .blocks = kSplit.blocks};
  constexpr RenormConfig kRenorm{
      .values = RowValues::probs, .threads = kSplit.threads, .cluster = kSplit.cluster, .chunks = kSplit.chunks, .blocks = kSplit.blocks};
  auto sampling = [&](bool logits, int32_t k, float p, float min_p, bool joint) {
    std::vector<SamplingParams> all;
    for (const Set& set : sets) {
      SamplingParams q;
      q.input = logits ? set.logits : set.probs, q.input_stride = kVocabSize, q.vocab_size = kVocabSize;
      q.num_rows = q.num_inputs = num_rows, q.tokens = set.tokens, q.joint = joint, q.seed.value = all.size();
      q.top_k.value = k, q.top_p.value = p, q.min_p.value = min_p;
      all.push_back(q);
    }
    return logits ? time_of<SamplingKernel<kOfLogits>>(kSplit, num_rows, all) : time_of<SamplingKernel<kOfProbs>>(kSplit, num_rows, all);
  };
  std::vector<SoftmaxParams> softmax;
  std::vector<RenormParams> top_p, top_k;
  for (const Set& set : sets) {
    SoftmaxParams s;
    s.input = set.logits, s.output = set.out, s.input_stride = s.output_stride = kVocabSize;
    s.num_rows = num_rows, s.vocab_size = kVocabSize, s.temperature.value = 0.7f;
    softmax.push_back(s);
    RenormParams r;
    r.input = set.probs, r.output = set.out, r.input_stride = r.output_stride = kVocabSize;
    r.num_rows = num_rows, r.vocab_size = kVocabSize, r.top_p.value = 0.9f;
    top_p.push_back(r);
    r.top_p.value = 1, r.top_k.value = 50;
    top_k.push_back(r);
  }
  std::printf("%4d rows, cluster %2d, %4d threads, %2d chunks, %d blocks: ", int(num_rows), kSplit.cluster, kSplit.threads, kSplit.chunks,
              kSplit.blocks);
  std::printf("probs %.1f  top_p %.1f  top_k %.1f  min_p %.1f  joint %.1f", sampling(false, 0, 1, 0, true),
              sampling(false, 0, 0.9f, 0, true), sampling(false, 50, 1, 0, true), sampling(false, 0, 1, 0.1f, true),
              sampling(false, 50, 0.9f, 0, true));
  std::printf("  logits %.1f  top_k top_p %.1f  top_p %.1f", sampling(true, 0, 1, 0, true), sampling(true, 50, 0.9f, 0, false),
              sampling(true, 0, 0.9f, 0, true));
  std::printf("  softmax %.1f  top_p_renorm %.1f  top_k_renorm %.1f\n", time_of<SoftmaxKernel<kSoftmax>>(kSplit, num_rows, softmax),
              time_of<RenormKernel<kRenorm>>(kSplit, num_rows, top_p), time_of<RenormKernel<kRenorm>>(kSplit, num_rows, top_k));
  std::fflush(stdout);
}

/// Rows that nothing cuts, or top_p alone, as the library launches them, or with another number of blocks a row.
template <int64_t kNumRows, int kCluster = 0>
void print_race(const std::vector<Set>& sets) {
  auto time = [&]<RowValues kValues, bool kTopP>() {
    constexpr RaceConfig kConfig = [] {
      RaceConfig config = gpu::tune(gpu::RaceProblem{DType::f32, kValues, kTopP, false, kNumRows, kVocabSize}, device_info_of({90, 'a'}));
      if (kCluster) config.cluster = kCluster;
      return config;
    }();
    std::vector<SamplingParams> all;
    for (const Set& set : sets) {
      SamplingParams q;
      q.input = kValues == RowValues::logits ? set.logits : set.probs, q.input_stride = kVocabSize, q.vocab_size = kVocabSize;
      q.num_rows = q.num_inputs = kNumRows, q.tokens = set.tokens, q.seed.value = all.size();
      if (kTopP) q.top_p.value = 0.9f;
      all.push_back(q);
    }
    return time_of<RaceKernel<kConfig>>({kConfig.threads, kConfig.cluster}, int(kNumRows), false,
                                        std::max(kConfig.smem_bytes(), gpu::smem_of_blocks(kConfig.blocks, device_info_of({90, 'a'}))),
                                        all);
  };
  const float probs = time.template operator()<RowValues::probs, false>(), logits = time.template operator()<RowValues::logits, false>();
  const float top_p = time.template operator()<RowValues::probs, true>(), of_logits = time.template operator()<RowValues::logits, true>();
  std::printf("%4d rows, race, cluster %d: probs %.1f  logits %.1f  top_p %.1f  top_p of logits %.1f\n", int(kNumRows), kCluster, probs,
              logits, top_p, of_logits);
}

}  // namespace

int main() {
  check(cudaStreamCreate(&stream), "stream");
  for (int64_t num_rows : {1, 16, 128, 512}) {
    const int64_t bytes = num_rows * kVocabSize * 4;
    std::vector<Set> sets(size_t(std::clamp<int64_t>((128 << 20) / bytes + 1, 1, 6)));
    for (Set& set : sets) {
      check(cudaMalloc(&set.logits, bytes), "memory"), check(cudaMalloc(&set.probs, bytes), "memory"),
          check(cudaMalloc(&set.out, bytes), "memory");
      check(cudaMalloc(&set.tokens, num_rows * 4), "memory");
      fill<<<1024, 256, 0, stream>>>(set.logits, bytes / 4, uint32_t(&set - sets.data()), false);
      fill<<<1024, 256, 0, stream>>>(set.probs, bytes / 4, uint32_t(&set - sets.data()), true);
    }
#if PART == 0
    if (num_rows == 1) print_race<1>(sets), print<RowSplit{512, 16, 4, 2}>(num_rows, sets);
    if (num_rows == 16) print_race<16>(sets);
    if (num_rows == 128) print_race<128>(sets);
    if (num_rows == 512) print_race<512>(sets);
    if (num_rows > 1) print<RowSplit{512, 8, 11, 2}>(num_rows, sets);
#elif PART == 1
    if (num_rows == 128) print_race<128, 2>(sets), print_race<128, 4>(sets), print_race<128, 8>(sets), print_race<128, 16>(sets);
    if (num_rows == 512) print_race<512, 1>(sets), print_race<512, 2>(sets), print_race<512, 4>(sets), print_race<512, 8>(sets);
    if (num_rows == 16) print_race<16, 8>(sets), print_race<16, 16>(sets);
#elif PART == 2
    if (num_rows > 16) print<RowSplit{1024, 4, 12, 1}>(num_rows, sets);
    if (num_rows == 1) print<RowSplit{1024, 16, 4, 1}>(num_rows, sets);
#elif PART == 3
    print<RowSplit{256, 16, 18, 2}>(num_rows, sets);
#elif PART == 4  // as tuned, and no other split
    if (num_rows == 1) print_race<1>(sets);
    if (num_rows == 16) print_race<16>(sets);
    if (num_rows == 128) print_race<128>(sets);
    if (num_rows == 512) print_race<512>(sets);
#endif
    for (Set& set : sets) cudaFree(set.logits), cudaFree(set.probs), cudaFree(set.out), cudaFree(set.tokens);
  }
}
