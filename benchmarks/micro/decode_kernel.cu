// The decode kernel beside the generic one, through the library's own plans and launches, and how far they differ. Standalone:
//   nvcc -std=c++20 -O3 -Iinclude -gencode arch=compute_90a,code=sm_90a benchmarks/micro/decode_kernel.cu -o decode_kernel &&
//   ./decode_kernel [case]
// Times are medians of graphs whose inputs are larger than L2. Another config is measured by a change of gpu::tune_decode.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <flashinfer/attention/attention.hpp>
#include <flashinfer/attention/gpu/attention_kernel.cuh>
#include <flashinfer/attention/gpu/decode_kernel.cuh>
#include <flashinfer/runtime/compiled_kernels.cuh>

using namespace flashinfer;

void check(int error, const char* call, int line) {
  if (error != 0) std::printf("line %d: %s gives %d\n", line, call, error), std::exit(1);
}
#define CHECK(call) check(int(call), #call, __LINE__)

struct Case {
  const char* name;
  int batch_size, kv_len;  // kv_len 0: zipf to 131072
  AttentionProblem problem;
  constexpr int64_t segments() const { return int64_t(batch_size) * problem.num_kv_heads; }
};
constexpr Case kCases[] = {{"64x8192", 64, 8192, {}},
                           {"64x8192/page1", 64, 8192, {.page_size = 1}},
                           {"zipf", 64, 0, {}},
                           {"64x8192/8-1", 64, 8192, {.num_qo_heads = 8, .num_kv_heads = 1}},
                           {"64x8192/e4m3", 64, 8192, {.kv = DType::e4m3}},
                           {"64x8192/d64", 64, 8192, {.head_dim_qk = 64, .head_dim_vo = 64}},
                           {"64x8192/d256", 64, 8192, {.num_qo_heads = 16, .head_dim_qk = 256, .head_dim_vo = 256}},
                           {"16x4096/mha", 16, 4096, {.num_kv_heads = 32}},
                           {"64x8192/q4", 64, 8192, {.causal = 1, .max_qo_len = 4}},
                           {"32x8192/q16", 32, 8192, {.causal = 1, .max_qo_len = 16}},
                           {"16x8192", 16, 8192, {}},
                           {"16x1024", 16, 1024, {}},
                           {"4x2048", 4, 2048, {}},
                           {"1x1024", 1, 1024, {}},
                           {"1x8192", 1, 8192, {}},
                           {"1x32768", 1, 32768, {}}};
constexpr int kNumCases = int(std::size(kCases));
constexpr DeviceInfo kDevice = device_info_of({90, 'a'});

template <int i>
void add(CompiledKernels& kernels) {
  constexpr Case c = kCases[i];
  constexpr AttentionConfig generic = gpu::tune(c.problem, kDevice);
  constexpr DecodeConfig decode =
      gpu::tune_cluster(gpu::tune_decode(c.problem, kDevice), c.segments(), c.kv_len ? c.kv_len : 131072, kDevice);
  kernels.add<gpu::AttentionKernel<generic>>(kernel_id(generic).hash);
  kernels.add<gpu::DecodeKernel<decode>>(kernel_id(decode).hash);
}

__global__ void fill(uint8_t* bytes, size_t n, bool float8) {  // numbers between -1 and 1, bf16 or e4m3
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x) {
    uint32_t x = uint32_t(i) * 2654435761u;
    x ^= x >> 15, x *= 2246822519u, x ^= x >> 13, x *= 3266489917u, x ^= x >> 16;
    const float f = (float(x & 0xffff) + float(x >> 16)) / 65536.0f - 1.0f;
    if (float8) {
      bytes[i] = uint8_t((x & 0x80) | (x >> 8) % 0x39);
    } else if (i % 2 == 0) {
      *reinterpret_cast<uint16_t*>(bytes + i) = uint16_t(__float_as_uint(f) >> 16);
    }
  }
}

void* allocate(size_t bytes) {
  void* p;
  CHECK(cudaMalloc(&p, std::max<size_t>(bytes, 16)));
  return p;
}

/// Microseconds of one launch, and the first set's output.
double measure(const Case& c, AttentionBackend backend, KernelSource& kernels, std::vector<bf16>& first_out) {
  AttentionProblem p = c.problem;
  p.backend = backend;
  const Device device{DeviceType::cuda, 0};
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  const Context context{.device = device, .stream = stream, .kernels = &kernels, .pdl = true};
  std::vector<int32_t> lens;
  for (int r = 0; r < c.batch_size; ++r) lens.push_back(c.kv_len ? c.kv_len : std::max(64, int(131072 / std::pow(r + 1, 1.1))));
  std::vector<int32_t> indptr{0}, last;
  for (int32_t n : lens) indptr.push_back(indptr.back() + ceil_div(n, p.page_size)), last.push_back((n - 1) % p.page_size + 1);
  const int64_t pages = indptr.back(), page_bytes = int64_t(p.page_size) * p.num_kv_heads * p.head_dim_qk * size_of(p.kv);
  const int sets = int(clamp((int64_t(256) << 20) / (2 * pages * page_bytes), int64_t(1), int64_t(16)));
  const int64_t rows = int64_t(c.batch_size) * p.max_qo_len, row = int64_t(p.num_qo_heads) * p.head_dim_qk;

  char *k = static_cast<char*>(allocate(size_t(pages * page_bytes * sets))),
       *v = static_cast<char*>(allocate(size_t(pages * page_bytes * sets)));
  char *q = static_cast<char*>(allocate(size_t(rows * row * 2))), *out = static_cast<char*>(allocate(size_t(rows * row * 2)));
  fill<<<2048, 256>>>(reinterpret_cast<uint8_t*>(k), size_t(pages * page_bytes * sets), is_float8(p.kv));
  fill<<<2048, 256>>>(reinterpret_cast<uint8_t*>(v), size_t(pages * page_bytes * sets), is_float8(p.kv));
  fill<<<2048, 256>>>(reinterpret_cast<uint8_t*>(q), size_t(rows * row * 2), false);
  CHECK(cudaDeviceSynchronize());

  std::mt19937 random(1);
  std::vector<void*> owned{k, v, q, out};
  std::vector<PlannedAttention> plans;
  std::vector<int32_t> order(static_cast<size_t>(pages));
  for (int s = 0; s < sets; ++s) {
    std::iota(order.begin(), order.end(), 0), std::shuffle(order.begin(), order.end(), random);
    AttentionLengths lengths;
    const auto view = [](std::vector<int32_t>& a) { return TensorView(a.data(), DType::i32, {int64_t(a.size())}); };
    lengths.kv_indptr = view(indptr), lengths.kv_indices = view(order), lengths.last_page_len = view(last),
    lengths.uniform_qo_len = p.max_qo_len;
    owned.push_back(allocate(64 << 20)), owned.push_back(allocate(8 << 20));
    const TensorView floats(owned[owned.size() - 2], DType::u8, {64 << 20}, device), ints(owned.back(), DType::u8, {8 << 20}, device);
    plans.push_back(plan_attention(p, lengths, {}, floats, ints, {}, context));
  }
  const auto run = [&](int s) {
    const TensorView queries(q, DType::bf16, {rows, p.num_qo_heads, p.head_dim_qk}, device),
        result(out, DType::bf16, {rows, p.num_qo_heads, p.head_dim_qk}, device);
    const auto cache = [&](char* data) {
      return TensorView(data + s * pages * page_bytes, p.kv, {pages, p.page_size, p.num_kv_heads, p.head_dim_qk}, device);
    };
    AttentionArguments args;
    args.variant.sm_scale = 1.0f / std::sqrt(float(p.head_dim_qk));
    attention(plans[size_t(s)], queries, cache(k), cache(v), result, {}, args, context);
  };
  run(0);
  first_out.resize(size_t(rows * row));
  CHECK(cudaMemcpyAsync(first_out.data(), out, first_out.size() * 2, cudaMemcpyDeviceToHost, stream));
  CHECK(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int s = 0; s < sets; ++s) run(s);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin)), CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 30; ++i) {
    CHECK(cudaEventRecord(begin, stream)), CHECK(cudaGraphLaunch(exec, stream)), CHECK(cudaEventRecord(end, stream)),
        CHECK(cudaEventSynchronize(end));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, begin, end)), times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  CHECK(cudaGraphExecDestroy(exec)), CHECK(cudaGraphDestroy(graph)), CHECK(cudaStreamDestroy(stream));
  for (void* each : owned) CHECK(cudaFree(each));
  return times[times.size() / 2] * 1e3 / sets;
}

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IONBF, 0);
  CompiledKernels kernels;
  [&]<int... i>(std::integer_sequence<int, i...>) { (add<i>(kernels), ...); }(std::make_integer_sequence<int, kNumCases>());
  for (const Case& c : kCases) {
    if (argc > 1 && std::string(c.name).find(argv[1]) == std::string::npos) continue;
    std::vector<bf16> expected, got;
    const double generic = measure(c, AttentionBackend::generic, kernels, expected),
                 decode = measure(c, AttentionBackend::decode, kernels, got);
    double error = 0, norm = 0;
    for (size_t i = 0; i < got.size(); ++i)
      error += std::pow(to_float(got[i]) - to_float(expected[i]), 2), norm += std::pow(to_float(expected[i]), 2);
    std::printf("%-16s generic %8.2f us   decode %8.2f us   they differ by %.1e\n", c.name, generic, decode, std::sqrt(error / norm));
  }
}
