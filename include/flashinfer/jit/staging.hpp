// Pinned host memory that copies of some KB to a GPU leave from: the driver takes pageable memory aside itself, which costs the caller up
// to five times the copy. Host only.
#pragma once

#include <mutex>
#include <vector>

#include <flashinfer/jit/cuda_driver.hpp>

namespace flashinfer::jit {

inline constexpr int kMaxDevices = 64;

/// Pieces of one GPU's context, for one thread at a time. A piece is written, an asynchronous copy reads it, and it is free again when
/// the event behind the copy has passed. Nobody ever waits: where the next piece is still in flight there is none.
class Staging {
 public:
  static constexpr size_t kPieceBytes = 64 << 10;  // what the plan of 2048 requests takes at most
  static constexpr int kPieces = 16;               // plans under way: more than engines run ahead of the GPU
  /// Up to so many bytes the driver is left to it. Alone a call takes (H200, benchmarks/upload.cpp): pageable 1.6 us for 1 KB, 2.1 for 8,
  /// 3.4 for 32, 6.3 for 64; pinned 1.2 whatever the size, and 0.3 for its event. But plan() as a whole, of 3 KB, spent some 4 us on
  /// the pinned way: an event behind a copy seems to cost more than one alone. Not yet measured apart.
  static constexpr size_t kDriverBytes = 8 << 10;

  /// With the GPU's context current. It has no pieces if the driver gives no pinned memory.
  Staging() {
    const RelaxedCapture relaxed;
    Driver& driver = Driver::get();
    void* memory = nullptr;
    if (!driver.mem_host_alloc || !driver.event_create || driver.mem_host_alloc(&memory, kPieces * kPieceBytes, 0) != 0) return;
    for (Event& done : done_)
      if (driver.event_create(&done, cu::kEventDisableTiming) != 0) return;
    memory_ = static_cast<char*>(memory);
  }
  Staging(const Staging&) = delete;

  /// At least `bytes`, or null: pageable memory it is then.
  void* piece(size_t bytes) {
    if (!memory_ || bytes > kPieceBytes) return nullptr;
    if (used_[next_]) {
      const RelaxedCapture relaxed;
      if (Driver::get().event_query(done_[next_]) != 0) return nullptr;
      used_[next_] = false;
    }
    return memory_ + size_t(next_) * kPieceBytes;
  }
  /// A copy from the last piece was enqueued. The result is cuEventRecord's.
  cu::Result sent(cu::Stream stream) {
    const int piece = next_;
    next_ = (next_ + 1) % kPieces;
    used_[piece] = true;
    return Driver::get().event_record(done_[piece], stream);
  }

  /// The calling thread's pieces. A thread that ends leaves them to the next one.
  static Staging& of_thread(int device) {
    struct Holder {
      Staging* of[kMaxDevices] = {};
      ~Holder() {
        const std::lock_guard lock(pool().mutex);
        for (int i = 0; i < kMaxDevices; ++i)
          if (of[i]) pool().idle[i].push_back(of[i]);
      }
    };
    thread_local Holder holder;
    Staging*& staging = holder.of[device];
    if (!staging) {
      const std::lock_guard lock(pool().mutex);
      std::vector<Staging*>& idle = pool().idle[device];
      if (idle.empty()) return *(staging = new Staging);
      staging = idle.back();
      idle.pop_back();
    }
    return *staging;
  }

 private:
  using Driver = cu::Driver;
  using Event = cu::Event;
  using RelaxedCapture = cu::RelaxedCapture;
  /// Never freed: the driver may be gone before static destructors run.
  struct Pool {
    std::mutex mutex;
    std::vector<Staging*> idle[kMaxDevices];
  };
  static Pool& pool() {
    static Pool* pool = new Pool;
    return *pool;
  }

  char* memory_ = nullptr;
  Event done_[kPieces] = {};
  bool used_[kPieces] = {};
  int next_ = 0;
};

}  // namespace flashinfer::jit
