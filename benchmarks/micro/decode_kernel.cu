// The decode kernel beside the generic one, through the library's own plans and launches, and how far they differ. Standalone:
//   nvcc -std=c++20 -O3 -Iinclude -gencode arch=compute_90a,code=sm_90a benchmarks/micro/decode_kernel.cu -o decode_kernel &&
//   ./decode_kernel [case]       or   ./decode_kernel variants [case]
// Times are medians of graphs whose inputs are larger than L2. `variants`: small batches in other clusters than gpu::tune_cluster's, with
// the workers that plans of device arrays have.
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
  constexpr DecodeConfig decode = gpu::tune_cluster(gpu::tune_decode(c.problem, kDevice), c.segments(), c.kv_len, kDevice);
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

// ---- variants -------------------------------------------------------------------------------------------------------------------------

constexpr Case kSmall[] = {{"1x1024", 1, 1024, {}},
                           {"1x8192", 1, 8192, {}},
                           {"1x32768", 1, 32768, {}},
                           {"2x8192", 2, 8192, {}},
                           {"4x2048", 4, 2048, {}},
                           {"16x1024", 16, 1024, {}},
                           {"64x8192/8-1", 64, 8192, {.num_qo_heads = 8, .num_kv_heads = 1}}};
constexpr int kNumSmall = int(std::size(kSmall));

struct Variant {
  const char* name;
  int cluster_blocks;  // 0: the library's own choice
  int load_warps = 0;  // 0: as tuned
};
constexpr Variant kVariants[] = {
    {"tuned", 0}, {"pieces", 1}, {"clusters of 2", 2}, {"clusters of 4", 4}, {"clusters of 8, 2 loading warps", 8, 2}};
constexpr int kNumVariants = int(std::size(kVariants));

constexpr DecodeConfig config_of(const Case& c, const Variant& v) {
  const DecodeConfig d = gpu::tune_decode(c.problem, kDevice);
  DecodeConfig with =
      v.cluster_blocks ? gpu::with_clusters(d, v.cluster_blocks, kDevice) : gpu::tune_cluster(d, c.segments(), c.kv_len, kDevice);
  if (v.load_warps) with.load_warps = v.load_warps;
  return with;
}

template <int i>
void add_variants(CompiledKernels& kernels) {
  constexpr int v = i / kNumSmall, c = i % kNumSmall;
  constexpr DecodeConfig config = config_of(kSmall[c], kVariants[v]);
  kernels.add<gpu::DecodeKernel<config>>(kernel_id(config).hash);
  if constexpr (v == 0) {
    constexpr AttentionConfig generic = gpu::tune(kSmall[c].problem, kDevice);
    kernels.add<gpu::AttentionKernel<generic>>(kernel_id(generic).hash);
  }
}

/// How many clusters run at a time: what clusters_at_once() knows.
template <int kCluster>
void print_clusters(int blocks, const DeviceInfo& device) {
  constexpr DecodeConfig config = config_of(kSmall[0], {"", kCluster});
  const auto* kernel = reinterpret_cast<const void*>(&gpu::entry<gpu::DecodeKernel<config>>);
  const int smem = blocks == 1 ? 200 << 10 : gpu::smem_bytes(config);
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10));
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {kCluster, 1, 1};
  cudaLaunchConfig_t launch{};
  launch.gridDim = {unsigned(kCluster * 64), 1, 1}, launch.blockDim = {unsigned(gpu::num_threads(config)), 1, 1};
  launch.dynamicSmemBytes = size_t(smem), launch.attrs = &attribute, launch.numAttrs = 1;
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch) != cudaSuccess) cudaGetLastError(), clusters = -1;
  std::printf("clusters of %d, %d block%s a multiprocessor: %d at a time, %d expected at least\n", kCluster, blocks, blocks == 1 ? "" : "s",
              clusters, int(clusters_at_once(kCluster, blocks, device)));
}

/// The cache, page tables and queries of a case: sets of them, together larger than L2.
struct Batch {
  const Case& c;
  const AttentionProblem& p = c.problem;
  const int32_t pages_of_request = ceil_div(c.kv_len, p.page_size), pages = c.batch_size * pages_of_request;
  const int64_t page_bytes = int64_t(p.page_size) * p.num_kv_heads * p.head_dim_qk * size_of(p.kv);
  const int sets = int(clamp((int64_t(256) << 20) / (2 * pages * page_bytes), int64_t(4), int64_t(16)));
  const int64_t row = int64_t(p.num_qo_heads) * p.head_dim_qk;
  static constexpr int kMaxWorkers = 396, kMaxSlots = 2 * kMaxWorkers;
  char *k, *v, *q, *out;
  std::vector<void*> owned;
  struct Set {
    int32_t *indptr, *last, *indices, *counters;
    PlanHeader* header;
    WorkerStart* starts;
    float* partials;
  };
  std::vector<Set> tables;
  std::vector<int32_t> indptr, last;
  cudaStream_t stream;

  template <class T>
  T* own(size_t n) {
    owned.push_back(allocate(n * sizeof(T)));
    return static_cast<T*>(owned.back());
  }
  explicit Batch(const Case& c) : c(c), last(size_t(c.batch_size), p.page_size) {
    const size_t bytes = size_t(pages * page_bytes * sets);
    k = own<char>(bytes), v = own<char>(bytes), q = own<char>(size_t(c.batch_size * row * 2)),
    out = own<char>(size_t(c.batch_size * row * 2));
    for (char* x : {k, v}) fill<<<2048, 256>>>(reinterpret_cast<uint8_t*>(x), bytes, false);
    fill<<<2048, 256>>>(reinterpret_cast<uint8_t*>(q), size_t(c.batch_size * row * 2), false);
    for (int r = 0; r <= c.batch_size; ++r) indptr.push_back(r * pages_of_request);
    std::mt19937 random(1);
    std::vector<int32_t> order(static_cast<size_t>(pages));
    for (int s = 0; s < sets; ++s) {
      std::iota(order.begin(), order.end(), 0), std::shuffle(order.begin(), order.end(), random);
      tables.push_back({own<int32_t>(indptr.size()), own<int32_t>(last.size()), own<int32_t>(order.size()), own<int32_t>(kMaxSlots),
                        own<PlanHeader>(1), own<WorkerStart>(kMaxWorkers), own<float>(size_t(kMaxSlots) * 64 * 130)});
      upload(tables.back().indptr, indptr), upload(tables.back().last, last), upload(tables.back().indices, order);
    }
    CHECK(cudaStreamCreate(&stream));
  }
  ~Batch() {
    CHECK(cudaStreamDestroy(stream));
    for (void* each : owned) CHECK(cudaFree(each));
  }
  template <class T>
  static void upload(T* to, const std::vector<T>& from) {
    CHECK(cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  }

  /// Plans as plan_attention() does, whatever the config.
  template <class Config>
  AttentionPlan plan(const Config& config, const DeviceInfo& device, int s) {
    AttentionPlan plan;
    plan.batch_size = c.batch_size, plan.num_qo_heads = p.num_qo_heads, plan.num_kv_heads = p.num_kv_heads;
    plan.q_tile = config.q_tile, plan.kv_tile = config.kv_tile, plan.page_size = p.page_size;
    plan.max_workers = gpu::workers_at_once(config, device.num_sms, device);
    plan.min_units = ceil_div(gpu::min_keys_per_worker(config), plan.kv_tile);
    plan.item_units = gpu::item_units(config, c.segments(), plan.max_workers);
    plan.head_lanes = gpu::head_lanes(config, plan.num_heads(), plan.max_workers);
    plan.max_slots = kMaxSlots;
    plan.kv_indptr = indptr.data(), plan.last_page_len = last.data();
    PlanHeader header;
    std::vector<WorkerStart> starts(kMaxWorkers);
    std::vector<int32_t> counters(kMaxSlots);
    plan_work(plan, header, starts.data(), counters.data());
    const Set& set = tables[size_t(s)];
    upload(set.header, std::vector<PlanHeader>{header}), upload(set.starts, starts), upload(set.counters, counters);
    plan.kv_indptr = set.indptr, plan.last_page_len = set.last, plan.header = set.header, plan.starts = set.starts,
    plan.counters = set.counters;
    plan.partial_out = set.partials;
    plan.partial_states = reinterpret_cast<PartialState*>(plan.partial_out + size_t(kMaxSlots) * 64 * 128);
    return plan;
  }

  /// Microseconds of one launch, and the first set's output.
  template <class Config>
  double measure(const Config& config, CompiledKernels& kernels, std::vector<bf16>& first_out) {
    const Context context{.device = {DeviceType::cuda, 0}, .stream = stream, .kernels = &kernels, .pdl = true};
    std::vector<AttentionParams> params(static_cast<size_t>(sets));
    for (int s = 0; s < sets; ++s) {
      AttentionParams& a = params[size_t(s)];
      a.plan = plan(config, kernels.device_info(0), s);
      const int64_t head = p.head_dim_qk, token = head * p.num_kv_heads, page = token * p.page_size;
      a.kv = {k + s * pages * page_bytes,
              v + s * pages * page_bytes,
              page,
              token,
              head,
              page,
              token,
              head,
              tables[size_t(s)].indices,
              pages,
              pages};
      a.q = q, a.out = out, a.q_stride_token = a.out_stride_token = row, a.q_stride_head = a.out_stride_head = head;
      a.total_qo_len = c.batch_size;
      a.variant.sm_scale = 1.0f / std::sqrt(float(p.head_dim_qk));
    }
    const auto run = [&](int s) { gpu::attention(params[size_t(s)], config, context); };
    CHECK(cudaMemset(out, 0xff, size_t(c.batch_size * row * 2)));
    CHECK(cudaDeviceSynchronize());
    run(sets - 1), run(0);  // one after the other: what is prefetched of the second belongs to it
    first_out.resize(size_t(c.batch_size * row));
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
    for (int i = 0; i < 31; ++i) {
      CHECK(cudaEventRecord(begin, stream)), CHECK(cudaGraphLaunch(exec, stream)), CHECK(cudaEventRecord(end, stream)),
          CHECK(cudaEventSynchronize(end));
      float ms;
      CHECK(cudaEventElapsedTime(&ms, begin, end)), times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    CHECK(cudaEventDestroy(begin)), CHECK(cudaEventDestroy(end)), CHECK(cudaGraphExecDestroy(exec)), CHECK(cudaGraphDestroy(graph));
    return times[times.size() / 2] * 1e3 / sets;
  }
};

double difference(const std::vector<bf16>& got, const std::vector<bf16>& expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i)
    error += std::pow(to_float(got[i]) - to_float(expected[i]), 2), norm += std::pow(to_float(expected[i]), 2);
  return std::sqrt(error / norm);
}

void measure_variants(const std::string& only) {
  CompiledKernels kernels;
  [&]<int... i>(std::integer_sequence<int, i...>) {
    (add_variants<i>(kernels), ...);
  }(std::make_integer_sequence<int, kNumVariants * kNumSmall>());
  for (int blocks : {2, 1}) {
    const DeviceInfo& device = kernels.device_info(0);
    print_clusters<2>(blocks, device), print_clusters<4>(blocks, device), print_clusters<8>(blocks, device),
        print_clusters<16>(blocks, device);
  }
  for (int i = 0; i < kNumSmall; ++i) {
    const Case& c = kSmall[i];
    if (std::string(c.name).find(only) == std::string::npos) continue;
    Batch batch(c);
    std::vector<bf16> expected, got;
    const double generic = batch.measure(gpu::tune(c.problem, kDevice), kernels, expected);
    const double megabytes = 2e-6 * double(batch.pages * batch.page_bytes);
    std::printf("\n%s: %.1f MB, %d sets; at 3.0 TB/s %.1f us; generic kernel %.2f us\n", c.name, megabytes, batch.sets, megabytes / 3.0,
                generic);
    double first[kNumVariants];
    for (int pass = 0; pass < 2; ++pass)  // so that drift shows
      for (int v = 0; v < kNumVariants; ++v) {
        const DecodeConfig config = config_of(c, kVariants[v]);
        const double us = batch.measure(config, kernels, got);
        if (pass == 0)
          first[v] = us;
        else
          std::printf("  %-32s %8.2f %8.2f us  %5.2f TB/s  differs by %.1e  (clusters of %d)\n", kVariants[v].name, first[v], us,
                      megabytes / std::min(us, first[v]), difference(got, expected), config.cluster_blocks);
      }
  }
}

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IONBF, 0);
  if (argc > 1 && std::string(argv[1]) == "variants") return measure_variants(argc > 2 ? argv[2] : ""), 0;
  CompiledKernels kernels;
  [&]<int... i>(std::integer_sequence<int, i...>) { (add<i>(kernels), ...); }(std::make_integer_sequence<int, kNumCases>());
  for (const Case& c : kCases) {
    if (argc > 1 && std::string(c.name).find(argv[1]) == std::string::npos) continue;
    std::vector<bf16> expected, got;
    const double generic = measure(c, AttentionBackend::generic, kernels, expected),
                 decode = measure(c, AttentionBackend::decode, kernels, got);
    std::printf("%-16s generic %8.2f us   decode %8.2f us   they differ by %.1e\n", c.name, generic, decode, difference(got, expected));
  }
}
