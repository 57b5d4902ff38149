// A slice of a row, read several times, that shared memory has room for as a whole: copied once, by every thread for itself, so that nobody
// waits for anybody (cp.async, from Ampere on; Turing loads and stores). Beside RowRing, whose passes copy what comes next, and put
// together what lies partly outside, a turn takes some twenty instructions less. (RowSlots takes one row after another, and floats in the
// place of elements.)
#pragma once

#include <flashinfer/gpu/ptx/cp_async_sm80.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/row_reader.cuh>

namespace flashinfer::gpu {

/// A chunk is a vector of 16 bytes a thread; a slice has no more than kChunks. kPadding: what lies outside the row or the slice.
template <class T, int kThreads, int kChunks, uint32_t kPadding = 0>
class RowHeld {
  static constexpr int kSlot = kThreads * 16;

 public:
  using Row = RowVectors<T>;
  static constexpr int kVec = Row::kVec;

  struct Smem {
    alignas(128) unsigned char slots[kChunks * kSlot];
  };

  __device__ RowHeld(Smem& smem, const Row& slice)
      : own_(smem.slots + threadIdx.x * 16),
        slice_(slice),
        from_(slice.base + (int64_t(slice.begin) + int(threadIdx.x)) * kVec),
        first_whole_(slice.first_whole()),
        whole_(uint32_t(slice.end_whole() - first_whole_)) {}
  /// Begins to copy it, a group of copies a chunk, if an empty one.
  __device__ void start() const {
    int vec = int(threadIdx.x);
    const T* from = from_;
#pragma unroll 1
    for (int c = 0; c < kChunks; ++c, vec += kThreads, from += kThreads * kVec) {
      if (uint32_t(vec - first_whole_) < whole_) {
        Row::copy(own_ + c * kSlot, from, true);
      } else if (c < chunks()) {
        slice_.load_part(vec, kPadding).store(reinterpret_cast<T*>(own_ + c * kSlot));
      }
      if constexpr (ptx::kHasCpAsync) ptx::cp_async_commit();
    }
  }

  __device__ const Row& slice() const { return slice_; }

  /// f(kUnit elements as floats, index of the first in the row, which may be negative, number of the chunk) for this thread's vectors or
  /// parts of them, all lanes of a warp together, with padding for what lies outside the row or the slice. kFirst: of all passes, which
  /// waits for the copies as it needs them.
  template <int kUnit, bool kFirst = false, class F>
  __device__ void for_each(const F& f) const {
    const int chunks = this->chunks();
    int first = slice_.index_of(ptx::opaque(int(threadIdx.x)));
    const unsigned char* place = own_;
#pragma unroll 1
    for (int c = 0; c < chunks; ++c, first += kThreads * kVec, place += kSlot) {
      if constexpr (kFirst && ptx::kHasCpAsync) ptx::cp_async_wait<kChunks - 1>(), ptx::cp_async_commit();
#pragma unroll 1
      for (int j = 0; j < kVec; j += kUnit) {
        float x[kUnit];
        Vec<T, kUnit>::load(reinterpret_cast<const T*>(place) + j).to_float(x);
        f(x, first + j, c);
      }
    }
  }

 private:
  unsigned char* const own_;
  const Row slice_;
  const T* const from_;    // this thread's first vector
  const int first_whole_;  // vectors of the slice from it on, whole_ of them, lie within the row; others are put together
  const uint32_t whole_;

  __device__ int chunks() const { return ceil_div(slice_.count, kThreads); }
};

}  // namespace flashinfer::gpu
