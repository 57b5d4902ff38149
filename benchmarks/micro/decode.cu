// What a decode kernel can count on, measured before it was written (issue: batch decode on Hopper; kernels.md section 30). Standalone:
//   nvcc -std=c++20 -O3 -Iinclude -gencode arch=compute_90a,code=sm_90a benchmarks/micro/decode.cu -lcuda -o decode && ./decode
// Copies: bandwidth against bytes under way; tensor-map boxes and 16-byte copies out of a paged cache. Arithmetic: clocks that a
// multiprocessor needs for a tile of 64 keys. Launch: the time from kernel to kernel, and what a merge adds.
#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include <flashinfer/gpu/ptx/bulk_copy_sm90.cuh>
#include <flashinfer/gpu/ptx/cluster_sm90.cuh>
#include <flashinfer/gpu/ptx/griddep_sm90.cuh>
#include <flashinfer/gpu/ptx/ldmatrix.cuh>
#include <flashinfer/gpu/ptx/mbarrier_sm90.cuh>
#include <flashinfer/gpu/ptx/mma_sm80.cuh>

using namespace flashinfer;
using namespace flashinfer::gpu;

void check(int error, const char* call, int line) {
  if (error != 0) std::printf("line %d: %s gives %d\n", line, call, error), std::exit(1);
}
#define CHECK(call) check(int(call), #call, __LINE__)

constexpr int kSms = 132;

double microseconds(const std::function<void()>& run, int repeats = 5) {
  cudaEvent_t a, b;
  CHECK(cudaEventCreate(&a)), CHECK(cudaEventCreate(&b));
  run();
  std::vector<float> times;
  for (int i = 0; i < repeats; ++i) {
    CHECK(cudaEventRecord(a)), run(), CHECK(cudaEventRecord(b)), CHECK(cudaEventSynchronize(b));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, a, b)), times.push_back(ms * 1e3f);
  }
  CHECK(cudaGetLastError());
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

__global__ void fill(uint32_t* words, size_t n) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x) {
    uint32_t x = uint32_t(i) * 2654435761u;
    x ^= x >> 15, x *= 2246822519u, x ^= x >> 13;
    words[i] = (x & 0x807f807fu) | 0x3f003f00u;  // bf16 pairs between 0.5 and 1, either sign
  }
}

extern __shared__ __align__(1024) unsigned char smem[];

// ---- 1. bulk copies of contiguous memory: ring of `depth` chunks a block
// ------------------------------------------------------------------------------------
__global__ void bulk_ring(const char* data, size_t bytes, int chunk, int depth) {
  __shared__ ptx::Mbarrier full[64];
  if (threadIdx.x != 0) return;
  for (int i = 0; i < depth; ++i) ptx::mbarrier_init(&full[i], 1);
  ptx::mbarrier_init_fence();
  const size_t chunks = bytes / chunk, first = chunks * blockIdx.x / gridDim.x, last = chunks * (blockIdx.x + 1) / gridDim.x;
  const uint64_t policy = ptx::l2_evict_first();
  for (size_t i = first; i < last + depth; ++i) {
    const int stage = int((i - first) % depth), phase = int((i - first) / depth);
    if (i >= first + depth) ptx::mbarrier_wait(&full[stage], (phase - 1) & 1);
    if (i >= last) continue;
    ptx::mbarrier_arrive_expect(&full[stage], chunk);
    ptx::bulk_copy(smem + stage * chunk, data + i * chunk, chunk, &full[stage], policy);
  }
}

// ---- 2. a paged cache [pages, page_size, 8 heads, 128] of bf16: tiles of 64 keys of one head, K and V
// ----------------------------------------------------
__device__ void tma_box(void* shared, const CUtensorMap* map, ptx::Mbarrier* barrier, int c0, int c1, int c2, int c3, int c4) {
  asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(
                   ptx::smem_address(shared)),
               "l"(map), "r"(ptx::smem_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
               : "memory");
}

/// Which 64 keys of which head a block's i-th tile is. The line is requests, then groups of `lanes` heads, then the 128 tiles of a request;
/// blocks come in groups of `lanes`: one takes a piece of the line for its own head, beside the others of its group.
struct Line {
  int first, last, lane, lanes;
  __device__ Line(int tiles, int lanes) : lane(blockIdx.x % lanes), lanes(lanes) {
    const int64_t pieces = gridDim.x / lanes, piece = blockIdx.x / lanes, length = tiles / lanes;
    first = int(length * piece / pieces), last = piece < pieces ? int(length * (piece + 1) / pieces) : first;
  }
  __device__ int head(int t) const { return t / 128 % (8 / lanes) * lanes + lane; }
  __device__ int tile(int t) const { return t / (128 * 8 / lanes) * 128 + t % 128; }
};

/// Map: {64 elements, tokens of a page, halves of the head dimension, heads, pages}; a box has `halves` halves of up to a page of tokens of
/// `heads` heads. Each of `issuers` warps has one thread that issues every issuers-th page. A stage is 32 KB: 64 / heads tokens.
__global__ void tma_ring(const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v, const int* pages, int tiles,
                         int page, int halves, int heads, int lanes, int depth, int issuers) {
  __shared__ ptx::Mbarrier full[16];
  if (threadIdx.x == 0) {
    for (int i = 0; i < depth; ++i) ptx::mbarrier_init(&full[i], issuers);
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  const int issuer = threadIdx.x / 32;
  if (threadIdx.x % 32 != 0 || issuer >= issuers) return;
  const int tokens = 64 / heads, rows = min(page, tokens), boxes = tokens / rows;
  const Line line(tiles, lanes);
  for (int t = line.first; t < line.last + depth; ++t) {
    const int stage = (t - line.first) % depth, phase = (t - line.first) / depth;
    if (t >= line.first + depth) ptx::mbarrier_wait(&full[stage], (phase - 1) & 1);
    if (t >= line.last) continue;
    ptx::mbarrier_arrive_expect(&full[stage], 32768 / issuers);
    const int head = heads == 1 ? line.head(t) : 0, first = heads == 1 ? line.tile(t) * 64 : t * tokens;
    for (int b = issuer; b < boxes; b += issuers) {
      const int token = first + b * rows, id = __ldg(pages + token / page);
      char* to = reinterpret_cast<char*>(smem) + stage * 32768 + b * rows * heads * 128;
      for (int h = 0; h < 2; h += halves) {
        tma_box(to + h * 8192, &k, &full[stage], 0, token % page, h, head, id);
        tma_box(to + 16384 + h * 8192, &v, &full[stage], 0, token % page, h, head, id);
      }
    }
  }
}

/// The same tiles by 16-byte copies of `warps` warps, swizzled as the tensor map would.
__global__ void cp_async_ring(const char* k, const char* v, const int* pages, int tiles, int page, int lanes, int depth, int warps) {
  __shared__ ptx::Mbarrier full[16];
  if (threadIdx.x == 0)
    for (int i = 0; i < depth; ++i) ptx::mbarrier_init(&full[i], warps * 32);
  __syncthreads();
  if (int(threadIdx.x) >= warps * 32) return;
  const Line line(tiles, lanes);
  const int first = line.first, last = line.last;
  const int chunk = threadIdx.x % 16, row0 = threadIdx.x / 16, rows = warps * 2;
  for (int t = first; t < last + depth; ++t) {
    const int stage = (t - first) % depth, phase = (t - first) / depth;
    if (t >= first + depth) ptx::mbarrier_wait(&full[stage], (phase - 1) & 1);
    if (t >= last) continue;
    const int head = line.head(t), tile = line.tile(t);
    const uint32_t to = ptx::smem_address(smem) + stage * 32768 + (chunk / 8) * 8192;
#pragma unroll 4
    for (int r = row0; r < 64; r += rows) {
      const int token = tile * 64 + r, id = __ldg(pages + token / page);
      const size_t from = ((size_t(id) * page + token % page) * 8 + head) * 256 + chunk * 16;
      const uint32_t at = to + r * 128 + ((chunk % 8) ^ (r % 8)) * 16;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(k + from) : "memory");
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at + 16384), "l"(v + from) : "memory");
    }
    ptx::cp_async_mbarrier_arrive(&full[stage]);
  }
}

/// The same tiles by one bulk copy of 256 bytes a row, issued by the lanes of a warp.
__global__ void row_ring(const char* k, const char* v, const int* pages, int tiles, int page, int lanes, int depth) {
  __shared__ ptx::Mbarrier full[16];
  if (threadIdx.x == 0) {
    for (int i = 0; i < depth; ++i) ptx::mbarrier_init(&full[i], 1);
    ptx::mbarrier_init_fence();
  }
  __syncwarp();
  const Line line(tiles, lanes);
  const int first = line.first, last = line.last;
  for (int t = first; t < last + depth; ++t) {
    const int stage = (t - first) % depth, phase = (t - first) / depth;
    if (t >= first + depth) ptx::mbarrier_wait(&full[stage], (phase - 1) & 1);
    if (t >= last) continue;
    if (threadIdx.x == 0) ptx::mbarrier_arrive_expect(&full[stage], 32768);
    __syncwarp();
    const int head = line.head(t), tile = line.tile(t);
    for (int r = threadIdx.x; r < 64; r += 32) {
      const int token = tile * 64 + r, id = __ldg(pages + token / page);
      const size_t from = ((size_t(id) * page + token % page) * 8 + head) * 256;
      ptx::bulk_copy(smem + stage * 32768 + r * 256, k + from, 256, &full[stage]);
      ptx::bulk_copy(smem + stage * 32768 + 16384 + r * 256, v + from, 256, &full[stage]);
    }
  }
}

// ---- 3. clocks of a tile's arithmetic: 64 keys, d 128, operands in shared memory
// -----------------------------------------------------------------------------------
/// Swapped operands on mma.sync: each warp has 8 * kRows8 rows and every (warps / row_warps)-th group of 16 keys of a tile.
template <int kRows8, bool kFp8>
__global__ void mma_tile(float* out, int64_t* clocks, int tiles, int warps, int row_warps) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float o[8][kRows8][4] = {};
  uint32_t q[8][kRows8][2];
  for (auto& a : q)
    for (auto& b : a) b[0] = lane * 77u | 0x3c003c00u, b[1] = lane * 31u | 0x3c003c00u;
  for (int i = threadIdx.x; i < 8192; i += blockDim.x)
    reinterpret_cast<uint32_t*>(smem)[i] =
        kFp8 ? (i * 2654435761u & 0x8f8f8f8fu) | 0x30303030u : (i * 2654435761u & 0x83ff83ffu) | 0x38003800u;
  __syncthreads();
  const int64_t start = clock64();
  const int key_warps = warps / row_warps, key_warp = warp / row_warps;
  const auto convert = [](uint32_t two) {
    uint32_t half2;
    asm volatile("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(half2) : "h"(uint16_t(two)));
    return half2;
  };
  const auto mma = [](float(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  };
  const auto load = [&](uint32_t(&a)[4], uint32_t at, bool trans) {
    if (trans)
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                   : "r"(at));
    else
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                   : "r"(at));
  };
  const uint32_t base = ptx::smem_address(smem);
  for (int t = 0; t < tiles; ++t) {
    for (int keys = key_warp; keys < 4; keys += key_warps) {
      float s[kRows8][4] = {};
      const int row = lane % 16;
      if constexpr (!kFp8) {
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          uint32_t a[4];
          load(a, base + (k / 4) * 8192 + (keys * 16 + row) * 128 + (((k % 4) * 2 + lane / 16) ^ (row % 8)) * 16, false);
#pragma unroll
          for (int r = 0; r < kRows8; ++r) mma(s[r], a, q[k][r]);
        }
      } else {
#pragma unroll
        for (int k = 0; k < 8; k += 2) {
          uint32_t raw[4];
          load(raw, base + (keys * 16 + row) * 128 + ((k + lane / 16) ^ (row % 8)) * 16, false);
          const uint32_t lo[4] = {convert(raw[0]), convert(raw[1]), convert(raw[0] >> 16), convert(raw[1] >> 16)};
          const uint32_t hi[4] = {convert(raw[2]), convert(raw[3]), convert(raw[2] >> 16), convert(raw[3] >> 16)};
#pragma unroll
          for (int r = 0; r < kRows8; ++r) mma(s[r], lo, q[k][r]), mma(s[r], hi, q[k + 1][r]);
        }
      }
      uint32_t p[kRows8][2];
#pragma unroll
      for (int r = 0; r < kRows8; ++r) {
        float top = fmaxf(fmaxf(s[r][0], s[r][2]), fmaxf(s[r][1], s[r][3]));
        for (int step = 4; step < 32; step *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
        for (float& x : s[r]) asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(x) : "f"(x - top));
        asm volatile("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(p[r][0]) : "f"(s[r][1]), "f"(s[r][0]));
        asm volatile("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(p[r][1]) : "f"(s[r][3]), "f"(s[r][2]));
        for (uint32_t& x : p[r]) asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(x));
      }
      if constexpr (!kFp8) {
#pragma unroll
        for (int d = 0; d < 8; ++d) {
          uint32_t a[4];
          load(a,
               base + 16384 + (d / 4) * 8192 + (keys * 16 + lane % 8 + lane / 16 * 8) * 128 +
                   (((d % 4) * 2 + lane / 8 % 2) ^ (lane % 8)) * 16,
               true);
#pragma unroll
          for (int r = 0; r < kRows8; ++r) mma(o[d][r], a, p[r]);
        }
      } else {
#pragma unroll
        for (int d = 0; d < 8; d += 2) {
          uint32_t raw[4];
          load(raw, base + 16384 + (keys * 16 + lane % 16) * 128 + ((d + lane / 16) ^ (lane % 8)) * 16, true);
          uint32_t a[2][4];
          for (int i = 0; i < 4; ++i) {
            const uint32_t even = __byte_perm(raw[i], 0, 0x4420), odd = __byte_perm(raw[i], 0, 0x4431);
            a[i / 2][i % 2 * 2] = convert(even), a[i / 2][i % 2 * 2 + 1] = convert(odd);
          }
#pragma unroll
          for (int r = 0; r < kRows8; ++r) mma(o[d][r], a[0], p[r]), mma(o[d + 1][r], a[1], p[r]);
        }
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) clocks[blockIdx.x] = clock64() - start;
  float sum = 0;
  for (auto& a : o)
    for (auto& b : a)
      for (float x : b) sum += x;
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

/// Chains of eight wgmma m64nNk16 with both operands in shared memory, one warpgroup: what S^T of 64 keys costs.
template <int kN>
__global__ void wgmma_tile(float* out, int64_t* clocks, int tiles) {
  for (int i = threadIdx.x; i < 8192; i += blockDim.x) reinterpret_cast<uint32_t*>(smem)[i] = (i * 2654435761u & 0x807f807fu) | 0x3f003f00u;
  __syncthreads();
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const auto descriptor = [](uint32_t at) {
    return uint64_t((at & 0x3ffff) >> 4) | (uint64_t(1) << 16) | (uint64_t(64) << 32) | (uint64_t(1) << 62);
  };
  const uint32_t base = ptx::smem_address(smem);
  float d[kN / 2] = {};
  const int64_t start = clock64();
  for (int t = 0; t < tiles; ++t) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const uint64_t a = descriptor(base + (k / 4) * 8192 + (k % 4) * 32), b = descriptor(base + 16384 + (k / 4) * 8192 + (k % 4) * 32);
      if constexpr (kN == 8)
        asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "l"(a), "l"(b));
      else if constexpr (kN == 16)
        asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, 1, 1, 1, 0, 0;"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
                     : "l"(a), "l"(b));
      else
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, 1, 1, "
            "1, 0, 0;"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]),
              "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
            : "l"(a), "l"(b));
    }
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  }
  if (threadIdx.x == 0) clocks[blockIdx.x] = clock64() - start;
  for (float x : d) out[threadIdx.x] += x;
}

// ---- 4. instruction rates
// ---------------------------------------------------------------------------------------------------------------------------------------------------
template <int kWhat>
__global__ void rate(uint32_t* out, int64_t* clocks, int rounds) {
  uint32_t x[8];
  for (int i = 0; i < 8; ++i) x[i] = threadIdx.x * 2654435761u + i * 77;
  __syncthreads();
  const int64_t start = clock64();
  for (int t = 0; t < rounds; ++t)
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (kWhat == 0) asm volatile("{.reg .b16 l, h; mov.b32 {l, h}, %0; cvt.rn.f16x2.e4m3x2 %0, l;}" : "+r"(x[i]));
      if (kWhat == 1) asm volatile("prmt.b32 %0, %0, %1, 0x5140;" : "+r"(x[i]) : "r"(x[(i + 1) % 8]));
      if (kWhat == 2) asm volatile("lop3.b32 %0, %0, %1, 0x80ff80ff, 0xe8;" : "+r"(x[i]) : "r"(x[(i + 1) % 8]));
      if (kWhat == 3) asm volatile("mul.f16x2 %0, %0, %1;" : "+r"(x[i]) : "r"(x[(i + 1) % 8]));
      if (kWhat == 4) asm volatile("{.reg .f32 f; mov.b32 f, %0; ex2.approx.ftz.f32 f, f; mov.b32 %0, f;}" : "+r"(x[i]));
      if (kWhat == 5) asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(x[i]));
    }
  __syncthreads();
  if (threadIdx.x == 0) clocks[blockIdx.x] = clock64() - start;
  for (uint32_t v : x) out[threadIdx.x] += v;
}

// ---- 5. launches and merges
// ------------------------------------------------------------------------------------------------------------------------------------------------
struct Blob {
  char bytes[512];
};
__global__ void nothing(const __grid_constant__ Blob blob, int pdl) {
  if (pdl) ptx::griddep_wait(), ptx::griddep_launch_dependents();
}
/// Every block writes a partial result of 16 rows x 128; blocks [16 s, 16 s + 16) meet at counter s and the last sums. how: 0 nothing of
/// it, 1 __threadfence and barriers, 2 one acq_rel atomic behind a barrier, 3 a cluster of 8 that adds up through distributed shared
/// memory.
__global__ void merge(float* partials, int* counters, float* out, int pieces, int how) {
  ptx::griddep_wait();
  const int segment = blockIdx.x / pieces;
  float4 mine = make_float4(threadIdx.x, segment, 1, 2);
  if (how == 3) {
    float4* shared = reinterpret_cast<float4*>(smem);
    for (int i = 0; i < 4; ++i) shared[i * 128 + threadIdx.x] = mine;
    ptx::cluster_sync();
    const uint32_t size = ptx::cluster_size(), rank = ptx::cluster_rank();
    if (threadIdx.x < 512 / size) {
      float4 sum = {};
      for (uint32_t r = 0; r < size; ++r) {
        const float4 x = *ptx::cluster_map(shared + rank * (512 / size) + threadIdx.x, r);
        sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
      }
      reinterpret_cast<float4*>(out)[segment * 512 + rank * (512 / size) + threadIdx.x] = sum;
    }
    ptx::cluster_sync();
    return;
  }
  if (how == 0) {
    reinterpret_cast<float4*>(out)[blockIdx.x * 128 + threadIdx.x] = mine;
    return;
  }
  for (int i = 0; i < 4; ++i) reinterpret_cast<float4*>(partials)[blockIdx.x * 512 + i * 128 + threadIdx.x] = mine;
  __shared__ int last;
  if (how == 1) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      last = atomicAdd(&counters[segment], 1) == pieces - 1;
      if (last) counters[segment] = 0;
    }
    __syncthreads();
    if (last) __threadfence();
  } else {
    __syncthreads();
    if (threadIdx.x == 0) {
      int before;
      asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counters + segment) : "memory");
      last = before == pieces - 1;
      if (last) counters[segment] = 0;
    }
    __syncthreads();
  }
  if (!last) return;
  for (int i = 0; i < 4; ++i) {
    float4 sum = {};
#pragma unroll 16
    for (int s = 0; s < pieces; ++s) {
      const float4 x = __ldcg(reinterpret_cast<const float4*>(partials) + (segment * pieces + s) * 512 + i * 128 + threadIdx.x);
      sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
    reinterpret_cast<float4*>(out)[segment * 512 + i * 128 + threadIdx.x] = sum;
  }
}

/// Microseconds of one of `n` launches of a graph.
double in_graph(const std::function<void(cudaStream_t)>& launch, int n = 40) {
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < n; ++i) launch(stream);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamEndCapture(stream, &graph)), CHECK(cudaGraphInstantiate(&exec, graph, 0));
  return microseconds([&] { CHECK(cudaGraphLaunch(exec, nullptr)); }, 15) / n;
}
template <class... Args>
void launch(void (*kernel)(Args...), int grid, int block, int bytes, bool pdl, int cluster, cudaStream_t stream, Args... args) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization, attributes[0].val.programmaticStreamSerializationAllowed = pdl;
  attributes[1].id = cudaLaunchAttributeClusterDimension, attributes[1].val.clusterDim = {unsigned(cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = bytes, config.stream = stream, config.attrs = attributes,
  config.numAttrs = 2;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  CHECK(cudaLaunchKernelEx(&config, kernel, args...));
}

int main() {
  const size_t bytes = size_t(4) << 30;  // of K, and of V: 64 requests of 8192 keys and more
  char *k, *v;
  CHECK(cudaMalloc(&k, bytes)), CHECK(cudaMalloc(&v, bytes));
  fill<<<1024, 256>>>(reinterpret_cast<uint32_t*>(k), bytes / 4), fill<<<1024, 256>>>(reinterpret_cast<uint32_t*>(v), bytes / 4);
  for (auto kernel : {(const void*)bulk_ring, (const void*)tma_ring, (const void*)cp_async_ring, (const void*)row_ring})
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10));

  std::printf("1. bulk copies of contiguous memory, TB/s: blocks/SM, chunk, bytes under way per SM\n");
  for (int blocks : {1, 2})
    for (int chunk : {4096, 16384})
      for (int kb : {16, 24, 32, 48, 64, 96, 192}) {
        const int depth = kb * 1024 / blocks / chunk;
        if (depth < 1 || depth > 64) continue;
        const double us = microseconds([&] { bulk_ring<<<kSms * blocks, 32, kb * 1024 / blocks>>>(k, bytes, chunk, depth); }, 3);
        std::printf("  %d x %5d B, %3d KB: %.3f\n", blocks, chunk, kb, bytes / us / 1e6);
      }

  std::printf("2. paged cache, 64 x 8192 keys, 8 heads (NHD), d 128: us (TB/s)\n");
  const int tiles = 64 * 8 * 128;
  const double moved = double(tiles) * 32768;
  std::mt19937 random(1);
  for (int page : {1, 8, 16, 64}) {
    std::vector<int> ids(64 * 8192 / page);
    std::iota(ids.begin(), ids.end(), 0), std::shuffle(ids.begin(), ids.end(), random);
    int* pages;
    CHECK(cudaMalloc(&pages, ids.size() * 4)), CHECK(cudaMemcpy(pages, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice));
    const auto show = [&](const char* what, int a, int b, int c, double us) {
      std::printf("  page %2d %-11s %d blocks/SM, %d lanes, %d issuers: %.1f (%.3f)\n", page, what, a, b, c, us, moved / us / 1e6);
    };
    for (int blocks : {1, 2})
      for (int lanes : {1, 2, 4, 8}) {
        const int depth = blocks == 1 ? 6 : 3;
        if (page >= 8) {
          for (int heads : {1, 8})
            for (int issuers : {1, 2}) {
              if (heads == 8 && (lanes > 1 || issuers > 1)) continue;
              CUtensorMap maps[2];
              for (int i = 0; i < 2; ++i) {
                const cuuint64_t dims[5] = {64, cuuint64_t(page), 2, 8, cuuint64_t(64 * 8192 / page)},
                                 strides[4] = {2048, 128, 256, cuuint64_t(page) * 2048};
                const cuuint32_t box[5] = {64, cuuint32_t(std::min(page, 64 / heads)), 2, cuuint32_t(heads), 1}, steps[5] = {1, 1, 1, 1, 1};
                CHECK(cuTensorMapEncodeTiled(&maps[i], CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, i ? v : k, dims, strides, box, steps,
                                             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
              }
              if (issuers == 2 && page == 64) continue;
              show(heads == 8 ? "tma 8 heads" : "tma", blocks, lanes, issuers,
                   microseconds(
                       [&] {
                         tma_ring<<<kSms * blocks, 64, depth * 32768>>>(maps[0], maps[1], pages, tiles, page, 2, heads, lanes, depth,
                                                                        issuers);
                       },
                       3));
            }
        }
        if (page <= 16)
          show("cp.async", blocks, lanes, 4,
               microseconds([&] { cp_async_ring<<<kSms * blocks, 128, depth * 32768>>>(k, v, pages, tiles, page, lanes, depth, 4); }, 3));
        if (page <= 16 && lanes == 8)
          show("rows", blocks, lanes, 1,
               microseconds([&] { row_ring<<<kSms * blocks, 32, depth * 32768>>>(k, v, pages, tiles, page, lanes, depth); }, 3));
      }
    CHECK(cudaFree(pages));
  }

  std::printf("3. clocks for a tile of 64 keys, d 128 (HBM brings one in 1750): kernel, rows, warps\n");
  float* out;
  int64_t* clocks;
  CHECK(cudaMalloc(&out, 64 << 20)), CHECK(cudaMallocManaged(&clocks, 4096));
  const auto per_tile = [&](const std::function<void()>& run, int tiles) {
    run(), CHECK(cudaDeviceSynchronize());
    return double(clocks[0]) / tiles;
  };
  for (int warps : {4, 8}) {
    const auto tile = [&](const char* what, auto kernel, int rows, int row_warps) {
      std::printf("  %s %2d rows, %d warps: %.0f\n", what, rows, warps,
                  per_tile([&] { kernel<<<kSms, warps * 32, 32768>>>(out, clocks, 200, warps, row_warps); }, 200));
    };
    tile("mma.sync bf16", mma_tile<1, false>, 8, 1), tile("mma.sync bf16", mma_tile<2, false>, 16, 1);
    tile("mma.sync bf16", mma_tile<2, false>, 32, 2), tile("mma.sync bf16", mma_tile<2, false>, 64, 4),
        tile("mma.sync bf16", mma_tile<4, false>, 64, 2);
    tile("mma.sync e4m3", mma_tile<1, true>, 8, 1), tile("mma.sync e4m3", mma_tile<2, true>, 64, 4);
  }
  std::printf("  wgmma S^T only, 8 / 16 / 32 rows, one warpgroup: %.0f %.0f %.0f\n",
              per_tile([&] { wgmma_tile<8><<<kSms, 128, 32768>>>(out, clocks, 200); }, 200),
              per_tile([&] { wgmma_tile<16><<<kSms, 128, 32768>>>(out, clocks, 200); }, 200),
              per_tile([&] { wgmma_tile<32><<<kSms, 128, 32768>>>(out, clocks, 200); }, 200));

  std::printf("4. warp instructions per clock and SM (16 warps): ");
  const auto rate_of = [&](const char* what, auto kernel) {
    std::printf("%s %.2f  ", what,
                16 * 8 * 200.0 / (per_tile([&] { kernel<<<kSms, 512>>>(reinterpret_cast<uint32_t*>(out), clocks, 200); }, 1)));
  };
  rate_of("cvt f16x2.e4m3x2", rate<0>), rate_of("prmt", rate<1>), rate_of("lop3", rate<2>), rate_of("mul.f16x2", rate<3>),
      rate_of("ex2", rate<4>), rate_of("movmatrix", rate<5>);

  std::printf("\n5. us per launch in a graph of 40\n");
  for (int bytes : {0, 100 << 10})
    for (int pdl : {0, 1})
      for (int cluster : {1, 4, 8})
        std::printf("  nothing, %3d KB, pdl %d, cluster %d: %.2f\n", bytes >> 10, pdl, cluster,
                    in_graph([&](cudaStream_t s) { launch(nothing, 128, 160, bytes, pdl, cluster, s, Blob{}, pdl); }));
  float* partials;
  int* counters;
  CHECK(cudaMalloc(&partials, 16 << 20)), CHECK(cudaMalloc(&counters, 4096)), CHECK(cudaMemset(counters, 0, 4096));
  for (int how : {0, 1, 2})
    for (int pieces : {2, 16})
      std::printf("  merge of %2d by %s: %.2f\n", pieces,
                  how == 0   ? "nothing"
                  : how == 1 ? "fences"
                             : "acq_rel",
                  in_graph([&](cudaStream_t s) { launch(merge, 128, 128, 0, true, 1, s, partials, counters, out, pieces, how); }));
  for (int cluster : {2, 4, 8})
    std::printf("  merge of %2d by cluster: %.2f\n", cluster,
                in_graph([&](cudaStream_t s) { launch(merge, 128, 128, 8192, true, cluster, s, partials, counters, out, cluster, 3); }));
  CHECK(cudaDeviceSynchronize());
}
