// Host only. A loop over [0, n) on a persistent pool of threads: the CPU's counterpart of a grid.
#pragma once

#include <pthread.h>

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <type_traits>

namespace flashinfer::cpu {

namespace detail {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();  // the instruction has no portable name, and asm belongs into gpu/ptx
#endif
}

inline int default_num_threads() {
  if (const char* text = std::getenv("FLASHINFER_NUM_THREADS")) {
    const int count = std::atoi(text);
    if (count > 0) return std::min(count, 1024);
  }
#if defined(__linux__)
  cpu_set_t allowed;  // a container or taskset often allows fewer CPUs than the machine has
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

/// One parallel_for, on its caller's stack. Threads take chunks until none is left.
struct Job {
  void (*body)(const void* f, int64_t begin, int64_t end);
  const void* f;
  int64_t n, chunk;
  std::atomic<int64_t> next{0};
  std::exception_ptr error = nullptr;  // the first; guarded by the pool's mutex
  int helpers = 0;                     // workers inside the job; guarded by the pool's mutex
  std::atomic<int> departed{0};
  Job* link = nullptr;

  bool has_work() const { return next.load(std::memory_order_relaxed) < n; }
};

/// True on a thread that is inside a chunk: a nested parallel_for runs inline.
inline thread_local bool inside_chunk = false;

/// Workers sleep on a counter and join whatever jobs are listed. A caller never waits for a worker that has not joined its
/// job yet, so a slow wake-up costs parallelism, not time. Pools are never destroyed: workers may outlive main().
class ThreadPool {
 public:
  /// The pool of this process: a forked child has none of its parent's threads and makes its own. It is told by a handler, for getpid()
  /// is a system call, and the smallest calls take less than ten of those.
  static ThreadPool& instance() {
    ThreadPool* pool = current_.load(std::memory_order_acquire);
    if (pool) [[likely]]
      return *pool;
    static const int registered = pthread_atfork(nullptr, nullptr, [] { current_.store(nullptr, std::memory_order_relaxed); });
    static_cast<void>(registered);
    auto* fresh = new ThreadPool;
    if (current_.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) return *fresh;
    delete fresh;  // another thread was quicker; no worker had started
    return *pool;
  }

  int num_threads() const { return num_threads_; }

  /// For calls that write memory which calls of other threads may write too, such as a workspace: they take turns.
  std::mutex turn;

  void run(Job& job) {
    {
      std::lock_guard lock(mutex_);
      start_workers();
      job.link = jobs_;
      jobs_ = &job;
      listed_.fetch_add(1, std::memory_order_seq_cst);  // before the look at sleepers_, which a worker raises before it looks at listed_
    }
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      const int64_t others = (job.n + job.chunk - 1) / job.chunk - 1;
      if (others >= num_threads_ - 1)
        listed_.notify_all();
      else
        for (int64_t i = 0; i < others; ++i) listed_.notify_one();
    }
    take_chunks(job);
    int helpers;
    {
      std::lock_guard lock(mutex_);
      for (Job** at = &jobs_; *at; at = &(*at)->link)
        if (*at == &job) {
          *at = job.link;
          break;
        }
      helpers = job.helpers;
    }
    // Nobody can join any more. The last chunks of the others are about as long as ours was: spin, then sleep.
    for (int spins = 0; job.departed.load(std::memory_order_acquire) != helpers; ++spins) {
      if (spins < kSpins)
        pause();
      else
        std::this_thread::yield();
    }
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  static constexpr int kSpins = 2000;  // about 20 us: kernels of one layer follow each other within that

  ThreadPool() : num_threads_(default_num_threads()) {}

  void start_workers() {
    try {
      for (; started_ < num_threads_ - 1; ++started_) std::thread([this] { work(); }).detach();
    } catch (const std::system_error&) {
      started_ = num_threads_;  // the system gives no more threads: the ones there are do the work
    }
  }

  void take_chunks(Job& job) {
    inside_chunk = true;
    try {
      for (;;) {
        const int64_t begin = job.next.fetch_add(job.chunk, std::memory_order_relaxed);
        if (begin >= job.n) break;
        job.body(job.f, begin, std::min(begin + job.chunk, job.n));
      }
    } catch (...) {
      job.next.store(job.n, std::memory_order_relaxed);  // the others stop after their chunk
      std::lock_guard lock(mutex_);
      if (!job.error) job.error = std::current_exception();
    }
    inside_chunk = false;
  }

  void work() {
    for (;;) {
      const int seen = listed_.load(std::memory_order_acquire);
      while (Job* job = join()) {
        take_chunks(*job);
        job->departed.fetch_add(1, std::memory_order_release);  // the job may be gone after this
      }
      int spins = 0;
      while (listed_.load(std::memory_order_acquire) == seen && spins < kSpins) pause(), ++spins;
      if (spins < kSpins) continue;
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      listed_.wait(seen, std::memory_order_acquire);
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  Job* join() {
    std::lock_guard lock(mutex_);
    for (Job* job = jobs_; job; job = job->link)
      if (job->has_work()) {
        ++job->helpers;
        return job;
      }
    return nullptr;
  }

  inline static std::atomic<ThreadPool*> current_{nullptr};
  const int num_threads_;
  int started_ = 0;
  std::mutex mutex_;
  Job* jobs_ = nullptr;
  std::atomic<int> listed_{0};
  std::atomic<int> sleepers_{0};
};

}  // namespace detail

/// Threads that parallel_for uses: FLASHINFER_NUM_THREADS, else the CPUs this process may run on. Read at the first call.
inline int num_threads() { return detail::ThreadPool::instance().num_threads(); }

/// f(begin, end) for disjoint ranges that cover [0, n), in any order, on any thread, each at least `grain` long (but the last):
/// choose grain so that one takes some microseconds. Little work, one thread, or a call from inside f runs inline. The first
/// exception of f is rethrown here. May be called from several threads at once.
template <class F>
void parallel_for(int64_t n, int64_t grain, const F& f) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (n <= grain || detail::inside_chunk) return void(f(int64_t(0), n));
  detail::ThreadPool& pool = detail::ThreadPool::instance();
  const int threads = pool.num_threads();
  if (threads == 1) return void(f(int64_t(0), n));
  // Four chunks a thread even out threads that the system interrupts.
  const int64_t chunk = std::max(grain, (n + 4 * threads - 1) / (4 * threads));
  detail::Job job{[](const void* body, int64_t begin, int64_t end) { (*static_cast<const F*>(body))(begin, end); }, &f, n, chunk};
  pool.run(job);
}

}  // namespace flashinfer::cpu
