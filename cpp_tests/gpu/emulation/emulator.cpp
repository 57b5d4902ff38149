// The scheduler of emulated blocks: fibers, barriers, copies that land late.
#include <cpp_tests/gpu/emulation/emulator.hpp>

#include <ucontext.h>

namespace emulation {
namespace {

/// The compiler's own jump, in a function that does not say that it never returns: at a longjmp(), or before a [[noreturn]] call,
/// AddressSanitizer clears the shadow of the stack and makes two system calls, half of the time of a test.
__attribute__((noipa, no_sanitize("address"))) void go_on(Place& place) { __builtin_longjmp(place, 1); }

}  // namespace

void Block::run_grid(Index grid, unsigned threads, size_t smem_bytes, uint32_t seed, const std::function<void()>& body, unsigned cluster) {
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

Block::Block(unsigned threads, size_t smem_bytes, uint32_t seed, unsigned cluster)
    : block_size{threads, 1, 1},
      smem_bytes_(smem_bytes),
      cluster_(int(cluster)),
      memory_(new unsigned char[cluster * smem_stride() + 128]),
      fibers_(threads * cluster),
      random_(seed) {
  smem_ = memory_.get() + (128 - uintptr_t(memory_.get()) % 128) % 128;
  for (unsigned i = 0; i < fibers_.size(); ++i) {
    if (i == stacks_.size()) stacks_.push_back(std::make_unique_for_overwrite<char[]>(kStackBytes));
    fibers_[i].stack = stacks_[i].get();
    fibers_[i].index = {i % threads, 0, 0};
    fibers_[i].rank = int(i / threads);
    fibers_[i].lane = int(i) % kLanes;
    fibers_[i].warp = int(i) / kLanes;
  }
}

Block::Order Block::draw_order(int warps) {
  Order order;
  order.last_lane_first = random_() % 2;
  const unsigned kind = random_() % 4;
  const int warps_of_block = warps / cluster_;
  if (kind == 0 && warps > 1) {
    order.first = int(random_() % warps), order.last = order.first + 1;
  } else if (kind <= 2 && cluster_ > 1) {
    order.first = int(random_() % cluster_) * warps_of_block, order.last = order.first + warps_of_block;
  }
  order.others_are_late = order.first < order.last && random_() % 2;
  return order;
}

int Block::lanes_of(int warp) const { return std::min(kLanes, int(fibers_.size()) - warp * kLanes); }

void Block::run(const std::function<void()>& body) {
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
  running_threads_.assign(size_t(cluster_), int(fibers_.size()) / cluster_);
  const int warps = (int(fibers_.size()) + kLanes - 1) / kLanes;
  able_.clear();
  for (int warp = 0; warp < warps; ++warp) able_.push_back(lanes_of(warp));
  order_ = draw_order(warps);
  for (int turn = int(random_() % warps), idle = 0; idle <= 2 * warps;) {
    // A warp runs on until none of its lanes can: other warps are as far behind or ahead as barriers allow.
    bool ran = false;
    for (int i = 0; i < lanes_of(turn) && able_[size_t(turn)] > 0 && (idle >= warps || !order_.is_late(turn)); ++i) {
      Fiber& f = lane(turn, i);
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

void Block::resume(Fiber& f) {
  running_ = &f;
  if (__builtin_setjmp(scheduler_) != 0) return;
  if (f.state == Fiber::runnable) go_on(f.here);
  f.state = Fiber::runnable;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = f.stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  setcontext(&context);
}

void Block::enter() {
  (*current_->body_)();
  Block& block = *current_;
  block.wait(*block.running_, Fiber::done, "");
  const int rank = block.running_->rank;
  if (--block.running_threads_[size_t(rank)] == 0 && block.cluster_ > 1) {
    unsigned char* const smem = block.smem_of(rank);
    for (const Fiber& f : block.fibers_)
      for (const PendingArrival& arrival : f.arrivals)
        for (const PendingCopy& copy : arrival.copies)
          if (copy.to >= smem && copy.to < smem + block.smem_stride()) block.fail("left before all has arrived", "block of a cluster");
    std::memset(smem, 0xff, block.smem_stride());
  }
  go_on(current_->scheduler_);
}

void Block::suspend() {
  if (__builtin_setjmp(running_->here) != 0) return;
  const int next = running_->lane + (order_.last_lane_first ? -1 : 1);
  Fiber* const lanes = &fibers_[size_t(running_->warp * kLanes)];
  if (0 <= next && next < lanes_of(running_->warp) && lanes[next].state == Fiber::runnable) running_ = &lanes[next];
  go_on(running_->state == Fiber::runnable ? running_->here : scheduler_);  // the next lane without asking run(), which would take it
}

void Block::fail(const char* what, const char* where) {
  std::fprintf(stderr, "emulation: %s / %s (block %u, thread %u)\n", what, where, block_index.x, running_->index.x);
  std::abort();
}

void Block::wait(Fiber& self, Fiber::State state, const char* name) {
  self.state = state;
  self.waits_for = name;
  --able_[size_t(self.warp)];
}

void Block::wake(Fiber& f) {
  f.state = Fiber::runnable;
  ++able_[size_t(f.warp)];
}

bool Block::arrive(Fiber& self, Fiber::State state, const char* name, Fiber* others, int count) {
  wait(self, state, name);
  for (int i = count; i-- > 0;) {  // they arrive in the order of their indices, most often: the last is the first to be missing
    if (others[i].state == Fiber::done) continue;
    if (others[i].state != state) return false;
    if (others[i].waits_for != name && std::strcmp(others[i].waits_for, name) != 0) fail(others[i].waits_for, name);
  }
  return true;
}

void Block::release(Fiber* others, int count) {
  for (int i = 0; i < count; ++i)
    if (others[i].state != Fiber::done) wake(others[i]);
}

bool Block::meet(const char* name, const void* argument, void* result) {
  Fiber& self = fiber();
  self.argument = argument;
  self.result = result;
  Fiber* const lanes = &fibers_[self.warp * kLanes];
  const int count = lanes_of(self.warp);
  if (!arrive(self, Fiber::in_warp, name, lanes, count)) {
    suspend();
    return false;
  }
  met_ = {};
  for (int i = 0; i < count; ++i) {
    if (lanes[i].state == Fiber::done) fail("a collective of a warp of which some lanes have exited", name);
    met_.arguments[i] = lanes[i].argument, met_.results[i] = lanes[i].result;
  }
  return true;
}

void Block::part() { release(&fibers_[fiber().warp * kLanes], lanes_of(fiber().warp)); }

void Block::wait_until(const char* name, std::function<bool()> ready) {
  if (ready()) return;
  Fiber& self = fiber();
  self.state = Fiber::polling;
  self.waits_for = name;
  self.ready = std::move(ready);
  suspend();
}

void Block::sync_some(int barrier, int count) {
  Named& named = named_[fiber().rank * 16 + barrier];
  const unsigned round = named.round;
  if (++named.arrived == count) {
    named.arrived = 0;
    ++named.round;
  } else {
    wait_until("named barrier", [&named, round] { return named.round != round; });
  }
}

void Block::sync_block() {
  Fiber* block = &fibers_[size_t(fiber().rank) * block_size.x];
  if (arrive(fiber(), Fiber::in_block, "__syncthreads", block, int(block_size.x))) {
    release(block, int(block_size.x));
  } else {
    suspend();
  }
}

int Block::count_in_block(bool predicate) {
  // Three in turn: what the next call adds to was read before every thread came to this one.
  std::array<int, 3>& counts = counts_[fiber().rank];
  const unsigned turn = fiber().counted++;
  counts[turn % 3] += predicate;
  if (fiber().index.x == 0) counts[(turn + 1) % 3] = 0;
  sync_block();
  return counts[turn % 3];
}

void Block::arrive_at_cluster() {
  fiber().cluster_round = cluster_barrier_.round;
  if (++cluster_barrier_.arrived < int(fibers_.size())) return;
  cluster_barrier_.arrived = 0;
  ++cluster_barrier_.round;
  for (Fiber& f : fibers_)
    if (f.state == Fiber::in_cluster) wake(f);
}

void Block::wait_for_cluster() {
  if (cluster_barrier_.round != fiber().cluster_round) return;
  wait(fiber(), Fiber::in_cluster, "cluster barrier");
  suspend();
}

MbarrierState& Block::mbarrier(const void* barrier) {
  const auto found = mbarriers_.find(barrier);
  if (found == mbarriers_.end()) fail("not initialised", "mbarrier");
  return found->second;
}

void Block::arrive_at(const void* barrier, int arrivals, int64_t expected_bytes, int64_t landed_bytes) {
  MbarrierState& state = mbarrier(barrier);
  state.pending -= arrivals;
  state.bytes += expected_bytes - landed_bytes;
  if (state.pending < 0) fail("more arrivals than it was initialised for", "mbarrier");
  if (state.pending == 0 && state.bytes == 0) state.pending = state.arrivals, ++state.phase;
}

void Block::land(const std::vector<PendingCopy>& copies) {
  for (const PendingCopy& copy : copies) {
    if (copy.valid) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      std::memset(copy.to, 0, copy.bytes);
    }
  }
}

/// The oldest copies of some thread arrive.
bool Block::land_one() {
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

}  // namespace emulation
