// Runs the library's kernels on a machine without a GPU: a block's threads are fibers of one thread of the host, warps advance in lockstep
// at collectives, and the instructions of gpu/ptx have twins (emulation/flashinfer/gpu/ptx, found before the real ones).
// Slow and strict: a collective that not all lanes reach, or a barrier that not all threads reach, is an error; asynchronous copies
// poison their destination and land as late as they may; warps run in a random order.
#pragma once

#include <ucontext.h>

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
  int64_t bytes = 0;  // that the barrier counts
};

/// What a word of shared memory that mbarrier_init() was called on stands for.
struct MbarrierState {
  int arrivals = 0, pending = 0;
  int64_t bytes = 0;  // that copies still have to bring
  unsigned phase = 0;
};

/// Where a fiber or the scheduler goes on. The compiler's own jump, in a function that does not say that it never returns: at a longjmp(),
/// or before a [[noreturn]] call, AddressSanitizer clears the shadow of the stack and makes two system calls, half of the time of a test.
using Place = void* [5];
__attribute__((noinline, no_sanitize("address"))) inline void go_on(Place& place) { __builtin_longjmp(place, 1); }

struct Fiber {
  Place here;
  std::unique_ptr<char[]> stack;
  enum State { fresh, runnable, in_warp, in_block, polling, done } state = fresh;
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
                       unsigned cluster = 1) {
    Block block(threads, smem_bytes, seed, cluster);
    current_ = &block;
    block.grid = grid;
    for (unsigned z = 0; z < grid.z; ++z)
      for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; x += cluster) {
          block.block_index = {x, y, z};
          block.run(body);
        }
    current_ = nullptr;
  }
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
    Fiber& self = fiber();
    Result result{};
    self.argument = &argument;
    self.result = &result;
    if (arrive(self, Fiber::in_warp, name, &fibers_[self.warp * kLanes], lanes_of(self.warp))) {
      const Argument* arguments[kLanes] = {};
      Result* results[kLanes] = {};
      for (int i = 0; i < lanes_of(self.warp); ++i) {
        Fiber& f = fibers_[self.warp * kLanes + i];
        if (f.state == Fiber::done) fail("a collective of a warp of which some lanes have exited", name);
        arguments[i] = static_cast<const Argument*>(f.argument), results[i] = static_cast<Result*>(f.result);
      }
      op(arguments, results);
      release(&fibers_[self.warp * kLanes], lanes_of(self.warp));
    } else {
      suspend();
    }
    return result;
  }
  /// Waits for what other threads do, or for copies that land.
  void wait_until(const char* name, std::function<bool()> ready) {
    if (ready()) return;
    Fiber& self = fiber();
    self.state = Fiber::polling;
    self.waits_for = name;
    self.ready = std::move(ready);
    suspend();
  }
  /// A barrier of some of the block's threads: the named barriers of PTX.
  void sync_some(int barrier, int count) {
    Named& named = named_[fiber().rank * 16 + barrier];
    const unsigned round = named.round;
    if (++named.arrived == count) {
      named.arrived = 0;
      ++named.round;
    } else {
      wait_until("named barrier", [&named, round] { return named.round != round; });
    }
  }

  void init_mbarrier(const void* barrier, int arrivals) { mbarriers_[barrier] = {arrivals, arrivals, 0, 0}; }
  MbarrierState& mbarrier(const void* barrier) {
    const auto found = mbarriers_.find(barrier);
    if (found == mbarriers_.end()) fail("not initialised", "mbarrier");
    return found->second;
  }
  void arrive_at(const void* barrier, int arrivals, int64_t expected_bytes, int64_t landed_bytes) {
    MbarrierState& state = mbarrier(barrier);
    state.pending -= arrivals;
    state.bytes += expected_bytes - landed_bytes;
    if (state.pending < 0) fail("more arrivals than it was initialised for", "mbarrier");
    if (state.pending == 0 && state.bytes == 0) state.pending = state.arrivals, ++state.phase;
  }
  static void land(const std::vector<PendingCopy>& copies) {
    for (const PendingCopy& copy : copies) {
      if (copy.valid) {
        std::memcpy(copy.to, copy.from, copy.bytes);
      } else {
        std::memset(copy.to, 0, copy.bytes);
      }
    }
  }

  /// Copies of the running thread that will land, and then arrive.
  void pend(PendingArrival arrival) {
    fiber().arrivals.push_back(std::move(arrival));
    ++pending_;
  }

  void sync_block() {
    Fiber* block = &fibers_[size_t(fiber().rank) * block_size.x];
    if (arrive(fiber(), Fiber::in_block, "__syncthreads", block, int(block_size.x))) {
      release(block, int(block_size.x));
    } else {
      suspend();
    }
  }
  int count_in_block(bool predicate) {
    // Three in turn: what the next call adds to was read before every thread came to this one.
    std::array<int, 3>& counts = counts_[fiber().rank];
    const unsigned turn = fiber().counted++;
    counts[turn % 3] += predicate;
    if (fiber().index.x == 0) counts[(turn + 1) % 3] = 0;
    sync_block();
    return counts[turn % 3];
  }
  /// The cluster's barrier, in two steps.
  /// Whether the blocks of the cluster have met: before that one may not have begun.
  bool cluster_has_met() const { return cluster_barrier_.round > 0; }
  void arrive_at_cluster() {
    fiber().cluster_round = cluster_barrier_.round;
    if (++cluster_barrier_.arrived == int(fibers_.size())) cluster_barrier_.arrived = 0, ++cluster_barrier_.round;
  }
  void wait_for_cluster() {
    const unsigned round = fiber().cluster_round;
    wait_until("cluster barrier", [this, round] { return cluster_barrier_.round != round; });
  }

 private:
  Block(unsigned threads, size_t smem_bytes, uint32_t seed, unsigned cluster)
      : block_size{threads, 1, 1},
        smem_bytes_(smem_bytes),
        cluster_(int(cluster)),
        memory_(new unsigned char[cluster * smem_stride() + 128]),
        fibers_(threads * cluster),
        random_(seed) {
    smem_ = memory_.get() + (128 - uintptr_t(memory_.get()) % 128) % 128;
    for (unsigned i = 0; i < fibers_.size(); ++i) {
      fibers_[i].stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
      fibers_[i].index = {i % threads, 0, 0};
      fibers_[i].rank = int(i / threads);
      fibers_[i].lane = int(i) % kLanes;
      fibers_[i].warp = int(i) / kLanes;
    }
  }
  size_t smem_stride() const { return (smem_bytes_ + 127) / 128 * 128; }
  int lanes_of(int warp) const { return std::min(kLanes, int(fibers_.size()) - warp * kLanes); }

  void run(const std::function<void()>& body) {
    body_ = &body;
    std::memset(smem_, 0xff, size_t(cluster_) * smem_stride());  // NaN in every float format: what a kernel reads it must have written
    for (Fiber& f : fibers_) {
      f.state = Fiber::fresh, f.groups.clear(), f.open.clear(), f.arrivals.clear();
      f.block = {block_index.x + unsigned(f.rank), block_index.y, block_index.z};
    }
    pending_ = 0;
    mbarriers_.clear();
    named_.clear();
    cluster_barrier_ = {};
    const int warps = (int(fibers_.size()) + kLanes - 1) / kLanes;
    for (int turn = int(random_() % warps), idle = 0; idle <= warps;) {
      // A warp runs on until none of its lanes can: other warps are as far behind or ahead as barriers allow.
      bool ran = false;
      for (int i = 0; i < lanes_of(turn); ++i) {
        Fiber& f = fibers_[turn * kLanes + i];
        if (f.state == Fiber::polling && f.ready()) f.state = Fiber::runnable;
        if (f.state == Fiber::fresh || f.state == Fiber::runnable) resume(f), ran = true;
      }
      if (!ran || random_() % 16 == 0) ran = land_one() || ran;
      idle = ran ? 0 : idle + 1;
      if (ran && random_() % 8) continue;
      turn = idle ? (turn + 1) % warps : int(random_() % warps);
    }
    for (Fiber& f : fibers_)
      if (f.state != Fiber::done) fail("threads wait for ever", f.waits_for);
  }

  /// The oldest copies of some thread arrive.
  bool land_one() {
    if (pending_ == 0) return false;
    const size_t first = random_() % fibers_.size();
    for (size_t i = 0; i < fibers_.size(); ++i) {
      std::vector<PendingArrival>& arrivals = fibers_[(first + i) % fibers_.size()].arrivals;
      if (arrivals.empty()) continue;
      land(arrivals.front().copies);
      arrive_at(arrivals.front().barrier, arrivals.front().arrivals, 0, arrivals.front().bytes);
      arrivals.erase(arrivals.begin());
      --pending_;
      return true;
    }
    return false;
  }

  bool arrive(Fiber& self, Fiber::State state, const char* name, Fiber* others, int count) {
    self.state = state;
    self.waits_for = name;
    for (int i = count; i-- > 0;) {  // they arrive in the order of their indices, most often: the last is the first to be missing
      if (others[i].state == Fiber::done) continue;
      if (others[i].state != state) return false;
      if (others[i].waits_for != name && std::strcmp(others[i].waits_for, name) != 0) fail(others[i].waits_for, name);
    }
    return true;
  }
  static void release(Fiber* others, int count) {
    for (int i = 0; i < count; ++i)
      if (others[i].state != Fiber::done) others[i].state = Fiber::runnable;
  }

  void resume(Fiber& f) {
    running_ = &f;
    if (__builtin_setjmp(scheduler_) != 0) return;
    if (f.state == Fiber::runnable) go_on(f.here);
    f.state = Fiber::runnable;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = f.stack.get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, enter, 0);
    setcontext(&context);
  }
  static void enter() {
    (*current_->body_)();
    current_->running_->state = Fiber::done;
    go_on(current_->scheduler_);
  }
  void suspend() {
    if (__builtin_setjmp(running_->here) == 0) go_on(scheduler_);
  }
  [[noreturn]] void fail(const char* what, const char* where) {
    std::fprintf(stderr, "emulation: %s / %s (block %u, thread %u)\n", what, where, block_index.x, running_->index.x);
    std::abort();
  }

  static inline Block* current_ = nullptr;
  size_t smem_bytes_;
  int cluster_;
  std::unique_ptr<unsigned char[]> memory_;
  unsigned char* smem_ = nullptr;
  std::vector<Fiber> fibers_;
  std::mt19937 random_;
  int pending_ = 0;  // arrivals of all fibers
  struct Named {
    int arrived = 0;
    unsigned round = 0;
  };
  std::unordered_map<int, Named> named_;
  Named cluster_barrier_;
  std::unordered_map<const void*, MbarrierState> mbarriers_;
  std::unordered_map<int, std::array<int, 3>> counts_;  // of __syncthreads_count, by the block's rank
  const std::function<void()>* body_ = nullptr;
  Fiber* running_ = nullptr;
  Place scheduler_;
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
