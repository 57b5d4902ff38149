// A slice of a row, read several times: to and fro, so that what a pass ends with, in shared memory and in L2, is what the next one begins
// with. A ring holds the last chunks of a pass, or the whole slice if it has the room; every thread copies its own vectors and takes them
// from there. Nobody waits for anybody (cp.async, from Ampere on; Turing loads and stores).
#pragma once

#include <flashinfer/gpu/ptx/cp_async_sm80.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/row_reader.cuh>

namespace flashinfer::gpu {

/// A chunk is a vector of 16 bytes a thread. The ring has place for kChunks. kPadding: what lies outside the row or the slice.
template <class T, int kThreads, int kChunks, uint32_t kPadding = 0, bool kAnywhere = false>
class RowRing {
  static constexpr int kSlot = kThreads * 16;

 public:
  using Row = RowVectors<T, kAnywhere>;
  using Vector = typename Row::Vector;
  static constexpr int kVec = Row::kVec;

  struct Smem {  // a warp's copies are whole lines: else 5 % of renorm by top_p (H100)
    alignas(128) unsigned char slots[kChunks * kSlot];
  };

  /// Begins to copy the first chunks.
  __device__ RowRing(Smem& smem, const Row& row)
      : own_(smem.slots + threadIdx.x * 16), row_(row), first_whole_(row.first_whole()), chunks_(ceil_div(row.count, kThreads)) {
    whole_ = uint32_t(row.end_whole() - first_whole_);
    restart();
  }
  /// Where something else was in its place.
  __device__ void restart() {
    forwards_ = true;
    int vec = int(threadIdx.x) - first_whole_;
    const T* from = address_of(vec);
#pragma unroll 1
    for (int c = 0; c < kChunks; ++c, vec += kThreads, from += kThreads * kVec) copy(c * kSlot, vec, from, true);
  }

  __device__ const Row& row() const { return row_; }
  /// A copy of this has gone over the row.
  __device__ void turn() { forwards_ = !forwards_; }

  /// The first pass, by eight elements of this thread: f(those of two vectors, or of one of 16-bit numbers), of all lanes of a warp together,
  /// with padding for what lies outside the row or the slice. What the ring holds after it is lost if it was no whole number of turns:
  /// restart() it for another.
  template <class F>
  __device__ void for_each_eight(const F& f) {
    constexpr int kVecs = 8 / kVec;
    static_assert(kChunks % kVecs == 0);
    const T* const first = ptx::opaque(address_of(0));
    int slot = 0, vec = int(threadIdx.x) - first_whole_;
    // Below it all vectors of a turn are whole: else they are put together, or of the next row.
    const uint32_t whole_turns = whole_ > uint32_t((kVecs - 1) * kThreads) ? whole_ - uint32_t((kVecs - 1) * kThreads) : 0;
    const int end = vec + round_up(chunks_, kVecs) * kThreads;
#pragma unroll 1
    while (vec != end) {
      ptx::cp_async_wait<kChunks - kVecs>();
      T* const place = reinterpret_cast<T*>(own_ + slot);
      if (uint32_t(vec) >= whole_turns) {
#pragma unroll
        for (int i = 0; i < kVecs; ++i)
          if (uint32_t(vec + i * kThreads) >= whole_) row_.load_part(vec + i * kThreads + first_whole_, kPadding).store(place + i * kThreads * kVec);
      }
      float x[8];
#pragma unroll
      for (int i = 0; i < kVecs; ++i) {
        float y[kVec];
        Vector::load(place + i * kThreads * kVec).to_float(y);
#pragma unroll
        for (int j = 0; j < kVec; ++j) x[i * kVec + j] = y[j];
      }
      f(x);
      const int next = vec + kChunks * kThreads;
      const T* const from = first + int64_t(next) * kVec;
#pragma unroll
      for (int i = 0; i < kVecs; ++i) copy(slot + i * kSlot, next + i * kThreads, from + i * kThreads * kVec, true);
      vec += kVecs * kThreads, slot = slot == (kChunks - kVecs) * kSlot ? 0 : slot + kVecs * kSlot;
    }
  }

  /// f(kUnit elements as floats, index of the first in the row, which may be negative, number of the chunk) for this thread's vectors or
  /// parts of them, all lanes of a warp together, with padding for what lies outside the row or the slice. What lies in chunks that
  /// needs(chunk) denies may read as zeros. Every pass goes the other way.
  template <int kUnit, class Needs, class F>
  __device__ void for_each(const Needs& needs, const F& f) {
    const int step = forwards_ ? 1 : -1, start = forwards_ ? 0 : chunks_ - 1;
    forwards_ = !forwards_;
    int slot = start % kChunks * kSlot;  // of chunk c: c % kChunks, on the way back too
    const int turn = step * kSlot, end = step > 0 ? kChunks * kSlot : -kSlot, again = step > 0 ? 0 : (kChunks - 1) * kSlot;
    // What a chunk costs beside f is counted in instructions: vectors and addresses move by a step.
    const int vecs = step * kThreads;
    int vec = start * kThreads + int(threadIdx.x) - first_whole_;
    const T* from = address_of(vec + kChunks * vecs);
#pragma unroll 1
    for (int i = 0, c = start; i < chunks_; ++i, c += step) {
      ptx::cp_async_wait<kChunks - 1>();  // a group a chunk, if an empty one: those of the chunks that come after this one may be under way
      T* const place = reinterpret_cast<T*>(own_ + slot);
      if (uint32_t(vec) >= whole_) row_.load_part(vec + first_whole_, kPadding).store(place);
      const int first = (row_.begin + first_whole_ + vec) * kVec - row_.skip;
#pragma unroll 1
      for (int j = 0; j < kVec; j += kUnit) {
        float x[kUnit];
        Vec<T, kUnit>::load(place + j).to_float(x);
        f(x, first + j, c);
      }
      copy(slot, vec + kChunks * vecs, from, needs(c + step * kChunks));
      vec += vecs, from += int64_t(vecs) * kVec, slot += turn;
      if (slot == end) slot = again;
    }
  }

 private:
  unsigned char* const own_;
  const Row row_;
  const int first_whole_, chunks_;
  uint32_t whole_;  // vectors from first_whole_ on, from which this class counts; others are put together when they are needed
  bool forwards_ = true;

  __device__ const T* address_of(int vec) const { return row_.base + (int64_t(row_.begin) + first_whole_ + vec) * kVec; }
  /// A whole vector, or zeros. What is behind the end of the pass leaves its slot as it is.
  __device__ void copy(int slot, int vec, const T* from, bool needed) const {
    if (uint32_t(vec) < whole_) Row::copy(own_ + slot, from, needed, row_.needs_words());
    if constexpr (ptx::kHasCpAsync) ptx::cp_async_commit();
  }
};

}  // namespace flashinfer::gpu
