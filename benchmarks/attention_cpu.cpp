// CPU attention against this machine's DRAM: GB/s of keys and values in decode, GFLOP/s in prefill, next to what the same
// threads read from memory in the same minute. Rounds are interleaved, since the machine may be shared: least and median of them.
//
//   g++ -std=c++20 -O3 -Iinclude benchmarks/attention_cpu.cpp -o /tmp/attention_cpu -pthread && /tmp/attention_cpu [rounds] [isa]
#include <flashinfer/attention/attention_plan_work.hpp>
#include <flashinfer/attention/cpu/attention.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

using namespace flashinfer;

namespace {

/// Time on the clock, and of all threads on CPUs: the latter hardly depends on other processes, but for the memory they use.
struct Sample {
  double wall, cpu;  // ms
};
Sample milliseconds(const std::function<void()>& f) {
  const auto begin = std::chrono::steady_clock::now();
  const std::clock_t cpu_begin = std::clock();
  f();
  return {std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count(),
          double(std::clock() - cpu_begin) * 1000 / CLOCKS_PER_SEC};
}

/// Paged keys and values of several layers, so many that no cache holds them: a model's layers follow each other too.
struct Attention {
  AttentionProblem problem;
  AttentionParams params;
  std::vector<int32_t> qo_indptr{0}, kv_indptr{0}, last_page_len, indices, counters;
  std::vector<uint16_t> k, v, q, out;
  PlanHeader header{};
  std::vector<WorkerStart> starts;
  std::vector<float> partials;
  int64_t layer_bytes = 0;
  int num_layers = 1, layer = 0;

  Attention(int batch_size, int qo_len, int kv_len, int qo_heads, int kv_heads, int head_dim, DType kv, int64_t least_bytes) {
    constexpr int kPage = 16;
    problem.kv = kv;
    problem.num_qo_heads = qo_heads, problem.num_kv_heads = kv_heads, problem.head_dim_qk = problem.head_dim_vo = head_dim;
    problem.page_size = kPage, problem.max_qo_len = qo_len, problem.causal = qo_len > 1;
    const int pages = ceil_div(kv_len, kPage);
    for (int r = 0; r < batch_size; ++r) {
      qo_indptr.push_back(qo_indptr.back() + qo_len);
      kv_indptr.push_back(kv_indptr.back() + pages);
      last_page_len.push_back((kv_len - 1) % kPage + 1);
    }
    indices.resize(kv_indptr.back());
    std::iota(indices.begin(), indices.end(), 0);
    std::shuffle(indices.begin(), indices.end(), std::mt19937(1));
    const int64_t page_elements = int64_t(kPage) * kv_heads * head_dim;
    layer_bytes = page_elements * int64_t(indices.size()) * size_of(kv);
    num_layers = int(max(least_bytes / (2 * layer_bytes), int64_t(1)));
    std::mt19937 generator(2);
    auto fill = [&](std::vector<uint16_t>& values, int64_t count) {
      values.resize(count);
      for (int64_t i = 0; i < count; ++i)
        values[i] = uint16_t((generator() & 0x807f) | 0x3e00 | (generator() & 0x100));  // bf16 near 0.1 to 1
    };
    fill(k, num_layers * layer_bytes / 2);
    v = k;
    fill(q, int64_t(batch_size) * qo_len * qo_heads * head_dim);
    out.resize(q.size());

    AttentionPlan& plan = params.plan;
    const auto tiles = cpu::attention_tiles(problem);
    plan.batch_size = batch_size, plan.num_qo_heads = qo_heads, plan.num_kv_heads = kv_heads / tiles.heads_per_item;
    plan.q_tile = tiles.q_tile, plan.kv_tile = tiles.kv_tile, plan.min_units = tiles.min_units, plan.max_workers = tiles.max_workers;
    plan.page_size = kPage, plan.causal = problem.causal;
    plan.qo_indptr = qo_indptr.data(), plan.kv_indptr = kv_indptr.data(), plan.last_page_len = last_page_len.data();
    plan.max_slots = 2 * plan.max_workers;
    starts.resize(plan.max_workers);
    counters.resize(plan.max_slots);
    const int64_t rows = int64_t(plan.max_slots) * plan.q_tile;
    partials.resize(rows * (head_dim + 2));
    plan.header = &header, plan.starts = starts.data(), plan.counters = counters.data();
    plan.partial_out = partials.data(), plan.partial_max = plan.partial_out + rows * head_dim, plan.partial_sum = plan.partial_max + rows;
    plan_work(plan, header, starts.data(), counters.data());

    KvView& view = params.kv;
    view.indices = indices.data(), view.num_indices = view.num_pages = int32_t(indices.size());
    view.k_stride_head = view.v_stride_head = head_dim;
    view.k_stride_token = view.v_stride_token = int64_t(kv_heads) * head_dim;
    view.k_stride_page = view.v_stride_page = page_elements;
    params.q = q.data(), params.out = out.data();
    params.q_stride_head = params.out_stride_head = head_dim;
    params.q_stride_token = params.out_stride_token = int64_t(qo_heads) * head_dim;
    params.total_qo_len = batch_size * qo_len;
    params.variant.sm_scale = 0.1f;
  }
  Attention(const Attention&) = delete;

  void run(cpu::IsaLevel isa) {
    params.kv.k = reinterpret_cast<const char*>(k.data()) + layer * layer_bytes;
    params.kv.v = reinterpret_cast<const char*>(v.data()) + layer * layer_bytes;
    layer = (layer + 1) % num_layers;
    cpu::attention(params, problem, isa);
  }
};

/// Reads all bytes on all threads, each a part of them front to back.
Sample read_all(const std::vector<uint16_t>& memory) {
  const int64_t blocks = int64_t(memory.size()) * 2 / 4096;
  return milliseconds([&] {
    cpu::parallel_for(blocks, 64, [&](int64_t begin, int64_t end) {
      cpu::dispatch_isa([&](auto isa) {
        using Isa = decltype(isa);
        const auto* p = reinterpret_cast<const float*>(memory.data());
        typename Isa::F sum = Isa::set(0.0f);
        for (int64_t i = begin * 1024; i < end * 1024; i += Isa::kLanes) sum = Isa::max(sum, Isa::load(p + i));
        volatile float sink = Isa::sum(sum);
        (void)sink;
      });
    });
  });
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  cpu::IsaLevel isa = cpu::best_isa();
  for (cpu::IsaLevel level : {cpu::IsaLevel::baseline, cpu::IsaLevel::avx2, cpu::IsaLevel::avx512})
    if (argc > 2 && !std::strcmp(argv[2], name_of(level))) isa = level;
  std::printf("%d threads, %s\n", cpu::num_threads(), name_of(isa));

  struct Case {
    const char* name;
    int batch_size, qo_len, kv_len, qo_heads, kv_heads, head_dim;
    DType kv;
    std::vector<Sample> times = {};
  };
  std::vector<Case> cases = {
      {"decode 1 x 4096, 32/8 heads of 128", 1, 1, 4096, 32, 8, 128, DType::bf16},
      {"decode 8 x 2048, 32/8 heads of 128", 8, 1, 2048, 32, 8, 128, DType::bf16},
      {"decode 16 x 1024, 32/8 heads of 128", 16, 1, 1024, 32, 8, 128, DType::bf16},
      {"decode 8 x 2048, 64/8 heads of 128", 8, 1, 2048, 64, 8, 128, DType::bf16},
      {"decode 2 x 2048, 32/32 heads of 128", 2, 1, 2048, 32, 32, 128, DType::bf16},
      {"decode 8 x 2048, 32/8 heads of 64", 8, 1, 2048, 32, 8, 64, DType::bf16},
      {"decode 8 x 2048, 32/8 heads, e4m3", 8, 1, 2048, 32, 8, 128, DType::e4m3},
      {"decode 8 x 2048, 4 tokens each", 8, 4, 2048, 32, 8, 128, DType::bf16},
      {"prefill 1 x 1024, 32/8 heads of 128", 1, 1024, 1024, 32, 8, 128, DType::bf16},
      {"append 128 to 2048, 32/8 heads of 128", 1, 128, 2048, 32, 8, 128, DType::bf16},
  };
  std::vector<Sample> reads;
  std::vector<std::unique_ptr<Attention>> attentions;
  for (const Case& c : cases)
    attentions.push_back(std::make_unique<Attention>(c.batch_size, c.qo_len, c.kv_len, c.qo_heads, c.kv_heads, c.head_dim, c.kv,
                                                     c.qo_len > 16 ? 0 : 256 << 20));
  const std::vector<uint16_t> memory(256 << 19, 1);
  for (int round = 0; round < rounds; ++round) {
    reads.push_back(read_all(memory));
    for (size_t i = 0; i < cases.size(); ++i) cases[i].times.push_back(milliseconds([&] { attentions[i]->run(isa); }));
  }
  std::printf("%42s %9s %9s %9s\n", "ms:", "least", "median", "CPU");
  auto report = [&](const char* name, std::vector<Sample>& samples, double bytes, double operations) {
    std::sort(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) { return a.cpu < b.cpu; });
    const double busy = samples[0].cpu;
    std::sort(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) { return a.wall < b.wall; });
    const double low = samples[0].wall, mid = samples[samples.size() / 2].wall;
    std::printf("%-42s %9.3f %9.3f %9.3f %8.1f GB/s (median %.1f, per busy core %.1f)", name, low, mid, busy, bytes / low / 1e6,
                bytes / mid / 1e6, bytes / busy / 1e6);
    if (operations) std::printf(" %8.1f GFLOP/s (per busy core %.1f)", operations / low / 1e6, operations / busy / 1e6);
    std::printf("\n");
  };
  report("sequential read of 256 MiB", reads, double(memory.size()) * 2, 0);
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    // Every query token sees kv_len keys but for those after it.
    const double keys = double(c.batch_size) * c.qo_len * (c.kv_len - (c.qo_len - 1) / 2.0);
    report(c.name, cases[i].times, 2.0 * double(attentions[i]->layer_bytes), 4.0 * keys * c.qo_heads * c.head_dim);
  }
}
