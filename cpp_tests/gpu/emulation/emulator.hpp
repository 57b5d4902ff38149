// Runs the library's kernels on a machine without a GPU: a block's threads are fibers of one thread of the host, warps advance in lockstep
// at collectives, and the instructions of gpu/ptx have twins (emulation/flashinfer/gpu/ptx, found before the real ones).
// Slow and strict: a collective that not all lanes reach, or a barrier that not all threads reach, is an error; asynchronous copies
// poison their destination and land as late as they may; warps run in a random order, and in many launches one warp or block is always
// late. What every thread does at every collective and barrier is in emulator.cpp, which is optimised in every build.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <unordered_map>
#include <vector>

namespace emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

/// One asynchronous copy that has not landed.
struct PendingCopy {
  unsigned char* to;
  const void* from;
  bool valid;
  uint32_t bytes = 16;
};

/// Copies of one thread that arrive at a barrier when they have landed.
struct PendingArrival {
  std::vector<PendingCopy> copies;
  const void* barrier;
  int arrivals = 1;
  int64_t bytes = 0;                     // that the barrier counts
  std::vector<unsigned char> sent = {};  // what is copied, if that is no memory of the kernel's
};

/// What a word of shared memory that mbarrier_init() was called on stands for.
struct MbarrierState {
  int arrivals = 0, pending = 0;
  int64_t bytes = 0;  // that copies still have to bring
  unsigned phase = 0;
};

/// Where a fiber or the scheduler goes on: what the compiler's own setjmp keeps.
using Place = void* [5];

struct Fiber {
  Place here;
  char* stack = nullptr;
  enum State { fresh, runnable, in_warp, in_block, in_cluster, polling, done } state = fresh;
  const char* waits_for = "";
  std::function<bool()> ready;           // polling: may it run on?
  std::vector<PendingArrival> arrivals;  // oldest first
  Index index, block;
  unsigned cluster_round = 0;        // of the cluster's barrier, when this thread arrived
  unsigned counted = 0;              // calls of __syncthreads_count
  int lane = 0, warp = 0, rank = 0;  // warp: of all in the cluster; rank: of the block in the cluster
  const void* argument = nullptr;
  void* result = nullptr;
  std::vector<PendingCopy> open;                 // not committed
  std::vector<std::vector<PendingCopy>> groups;  // committed, oldest first
};

class Block {
 public:
  static constexpr size_t kStackBytes = 256 << 10;
  static constexpr int kLanes = 32;

  /// Runs `body` as every thread of every block of a grid, one block after another; with `cluster`, as many blocks along x at a time.
  static void run_grid(Index grid, unsigned threads, size_t smem_bytes, uint32_t seed, const std::function<void()>& body,
                       unsigned cluster = 1);
  static void run_grid(unsigned grid, unsigned threads, size_t smem_bytes, uint32_t seed, const std::function<void()>& body,
                       unsigned cluster = 1) {
    run_grid(Index{grid, 1, 1}, threads, smem_bytes, seed, body, cluster);
  }

  static Block& current() { return *current_; }
  Fiber& fiber() { return *running_; }

  Index block_index, grid, block_size;  // block_index: of the cluster's first block
  unsigned char* smem() { return smem_of(running_->rank); }
  unsigned char* smem_of(int rank) { return smem_ + size_t(rank) * smem_stride(); }
  size_t smem_bytes() const { return smem_bytes_; }
  int cluster_size() const { return cluster_; }

  /// A collective of a warp: the last lane to arrive calls op(arguments, results) for all 32. `name` must be the same in all lanes.
  template <class Result, class Argument, class Op>
  Result collect(const char* name, const Argument& argument, Op&& op) {
    Result result{};
    if (meet(name, &argument, &result)) {
      const Argument* arguments[kLanes];
      Result* results[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        arguments[i] = static_cast<const Argument*>(met_.arguments[i]);
        results[i] = static_cast<Result*>(met_.results[i]);
      }
      op(arguments, results);
      part();
    }
    return result;
  }
  /// Waits for what other threads do, or for copies that land.
  void wait_until(const char* name, std::function<bool()> ready);
  /// A barrier of some of the block's threads: the named barriers of PTX.
  void sync_some(int barrier, int count);

  void init_mbarrier(const void* barrier, int arrivals) { mbarriers_[barrier] = {arrivals, arrivals, 0, 0}; }
  MbarrierState& mbarrier(const void* barrier);
  void arrive_at(const void* barrier, int arrivals, int64_t expected_bytes, int64_t landed_bytes);
  static void land(const std::vector<PendingCopy>& copies);

  /// Copies of the running thread that will land, and then arrive.
  void pend(PendingArrival arrival) {
    fiber().arrivals.push_back(std::move(arrival));
    ++pending_;
  }

  void sync_block();
  int count_in_block(bool predicate);
  /// Whether the blocks of the cluster have met: before that one may not have begun.
  bool cluster_has_met() const { return cluster_barrier_.round > 0; }
  /// Whether all threads of a block have ended: nobody may ask for its shared memory, which has been overwritten.
  bool has_left(int rank) const { return running_threads_[size_t(rank)] == 0; }
  /// The cluster's barrier, in two steps.
  void arrive_at_cluster();
  void wait_for_cluster();

 private:
  Block(unsigned threads, size_t smem_bytes, uint32_t seed, unsigned cluster);
  size_t smem_stride() const { return (smem_bytes_ + 127) / 128 * 128; }
  int lanes_of(int warp) const;

  /// Who comes after whom in one launch, wherever barriers allow both: a warp, or a block of the cluster, that is always late, or that all
  /// others are later than. What it still has to read when others write is read too late; what it writes early is overwritten.
  struct Order {
    int first = 0, last = 0;  // warps
    bool others_are_late = false, last_lane_first = false;
    bool is_late(int warp) const { return (first <= warp && warp < last) != others_are_late; }
  };
  Order draw_order(int warps);

  void run(const std::function<void()>& body);
  /// Of a warp, the one whose turn is the i-th.
  Fiber& lane(int warp, int i) { return fibers_[size_t(warp * kLanes + (order_.last_lane_first ? lanes_of(warp) - 1 - i : i))]; }
  bool land_one();
  /// True in the last lane of the warp to come: met_ is what all came with. False in the others, once that one has called part().
  bool meet(const char* name, const void* argument, void* result);
  void part();
  bool arrive(Fiber& self, Fiber::State state, const char* name, Fiber* others, int count);
  /// Whether run() may take a lane changes here alone.
  void wait(Fiber& self, Fiber::State state, const char* name);
  void wake(Fiber& f);
  void release(Fiber* others, int count);
  void resume(Fiber& f);
  static void enter();
  void suspend();
  [[noreturn]] void fail(const char* what, const char* where);

  static inline Block* current_ = nullptr;
  static inline std::vector<std::unique_ptr<char[]>> stacks_;  // of all launches: a seventh of a sanitized test was their page faults
  size_t smem_bytes_;
  int cluster_;
  std::unique_ptr<unsigned char[]> memory_;
  unsigned char* smem_ = nullptr;
  std::vector<Fiber> fibers_;
  Order order_;            // of this launch
  std::vector<int> able_;  // lanes of each warp that may run, or have to be asked
  std::mt19937 random_;
  int pending_ = 0;  // arrivals of all fibers
  struct Named {
    int arrived = 0;
    unsigned round = 0;
  };
  std::unordered_map<int, Named> named_;
  Named cluster_barrier_;
  std::vector<int> running_threads_;  // of each block
  std::unordered_map<const void*, MbarrierState> mbarriers_;
  std::unordered_map<int, std::array<int, 3>> counts_;  // of __syncthreads_count, by the block's rank
  const std::function<void()>* body_ = nullptr;
  Fiber* running_ = nullptr;
  Place scheduler_;
  struct Met {
    const void* arguments[kLanes];  // null where the warp has no such lane
    void* results[kLanes];
  };
  Met met_;
};

}  // namespace emulation

// The words of CUDA C++ that the library's kernels use.
#define threadIdx (::emulation::Block::current().fiber().index)
#define blockIdx (::emulation::Block::current().fiber().block)
#define gridDim (::emulation::Block::current().grid)
#define blockDim (::emulation::Block::current().block_size)
#define __device__
#define __shared__ static
#define __device__
#define __noinline__ __attribute__((noinline))
#define FLASHINFER_DEVICE inline

struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline void __syncthreads() { emulation::Block::current().sync_block(); }
inline int __syncthreads_count(int predicate) { return emulation::Block::current().count_in_block(predicate != 0); }
inline void __syncwarp(unsigned = ~0u) {
  emulation::Block::current().collect<int>("__syncwarp", 0, [](const int* const*, int* const*) {});
}
inline void __threadfence() {}
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
T atomicAdd(T* p, T x) {
  const T before = *p;
  *p += x;
  return before;
}
template <class T>
T atomicOr(T* p, T x) {
  const T before = *p;
  *p |= x;
  return before;
}
template <class T>
T atomicMin(T* p, T x) {
  const T before = *p;
  *p = x < before ? x : before;
  return before;
}
template <class T>
T atomicMax(T* p, T x) {
  const T before = *p;
  *p = before < x ? x : before;
  return before;
}

namespace emulation {
template <class T>
struct Shuffle {
  T value;
  int from;
};
template <class T>
T shuffle(const char* name, T x, int from) {
  return Block::current().collect<T>(name, Shuffle<T>{x, from}, [](const Shuffle<T>* const* a, T* const* r) {
    for (int i = 0; i < Block::kLanes; ++i)
      if (a[i]) *r[i] = a[a[i]->from]->value;
  });
}
}  // namespace emulation
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return emulation::shuffle("__shfl_xor_sync", x, emulation::Block::current().fiber().lane ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T x, int lane, int width = 32) {
  const int self = emulation::Block::current().fiber().lane;
  return emulation::shuffle("__shfl_sync", x, self / width * width + lane % width);
}
template <class T>
T __shfl_up_sync(unsigned, T x, unsigned by, int width = 32) {
  const int self = emulation::Block::current().fiber().lane;
  return emulation::shuffle("__shfl_up_sync", x, self % width >= int(by) ? self - int(by) : self);
}
template <class T>
T __shfl_down_sync(unsigned, T x, unsigned by, int width = 32) {
  const int self = emulation::Block::current().fiber().lane;
  return emulation::shuffle("__shfl_down_sync", x, self % width + int(by) < width ? self + int(by) : self);
}
namespace emulation {
template <class Op>
unsigned reduce(const char* name, unsigned x, Op op) {
  return Block::current().collect<unsigned>(name, x, [op](const unsigned* const* a, unsigned* const* r) {
    unsigned all = *a[0];
    for (int i = 1; i < Block::kLanes; ++i) all = op(all, *a[i]);
    for (int i = 0; i < Block::kLanes; ++i) *r[i] = all;
  });
}
}  // namespace emulation
inline unsigned __reduce_add_sync(unsigned, unsigned x) {
  return emulation::reduce("__reduce_add_sync", x, [](unsigned a, unsigned b) { return a + b; });
}
inline unsigned __reduce_max_sync(unsigned, unsigned x) {
  return emulation::reduce("__reduce_max_sync", x, [](unsigned a, unsigned b) { return a < b ? b : a; });
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  return emulation::Block::current().collect<unsigned>("__ballot_sync", predicate, [](const int* const* a, unsigned* const* r) {
    unsigned bits = 0;
    for (int i = 0; i < emulation::Block::kLanes; ++i) bits |= unsigned(a[i] && *a[i]) << i;
    for (int i = 0; i < emulation::Block::kLanes; ++i)
      if (a[i]) *r[i] = bits;
  });
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = low | uint64_t(high) << 32;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= unsigned(bytes >> (selector >> (4 * i) & 7) * 8 & 0xff) << (8 * i);
  return result;
}
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline void sincospif(float x, float* sine, float* cosine) {
  *sine = float(std::sin(M_PI * double(x)));
  *cosine = float(std::cos(M_PI * double(x)));
}
