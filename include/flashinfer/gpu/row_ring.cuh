// A slice of a row, read several times: to and fro, so that what a pass ends with, in shared memory and in L2, is what the next one begins
// with. A ring holds the last chunks of a pass, or the whole slice if it has the room; every thread copies its own vectors and takes them
// from there. Nobody waits for anybody (cp.async, from Ampere on; Turing loads and stores). Warps have parts of the slice of their own, so
// that what they begin with is spread over it.
#pragma once

#include <flashinfer/gpu/ptx/cp_async_sm80.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/row_reader.cuh>

namespace flashinfer::gpu {

/// A chunk is a vector of 16 bytes a thread, and a warp's are neighbours. The ring has place for kChunks. kPadding: what lies outside the
/// row or the slice. A warp has a multiple of kTogether chunks. kOnce: the first chunks, as all that for_each_eight() reads, are
/// seldom read again.
template <class T, int kThreads, int kChunks, uint32_t kPadding = 0, bool kAnywhere = false, int kTogether = 1, bool kOnce = false>
class RowRing {
  static constexpr int kSlot = kThreads * 16, kWarps = kThreads / kWarpSize;

 public:
  using Row = RowVectors<T, kAnywhere>;
  using Vector = typename Row::Vector;
  static constexpr int kVec = Row::kVec;

  struct Smem {  // a warp's copies are whole lines: else 5 % of renorm by top_p (H100)
    alignas(128) unsigned char slots[kChunks * kSlot];
  };

  __device__ RowRing(Smem& smem, const Row& slice) : own_(smem.slots + threadIdx.x * 16), slice_(slice) {}
  /// Begins to copy the first chunks; again, where something else was in their place.
  __device__ void start() {
    const Part part = this->part();
    forwards_ = true;
    int vec = part.first;
    const T* from = address_of(part, vec);
#pragma unroll 1
    for (int c = 0; c < kChunks; ++c, vec += kWarpSize, from += kWarpSize * kVec) copy<kOnce>(part, c * kSlot, vec, from, true);
  }

  __device__ const Row& slice() const { return slice_; }
  /// Elements of this warp's part of it, and the index of the first.
  __device__ int part_length() const { return share_of(slice_) * kVec; }
  __device__ int part_begin() const { return slice_.index_of(int(threadIdx.x) / kWarpSize * share_of(slice_)); }
  /// A copy of this has gone over the row.
  __device__ void turn() { forwards_ = !forwards_; }

  /// f(kUnit elements as floats) for this thread's vectors of the first kCount chunks, before the first pass; zeros for what does not lie
  /// in the row as a whole vector.
  template <int kUnit, int kCount, class F>
  __device__ void sample(const F& f) const {
    static_assert(kCount <= kChunks);
    ptx::cp_async_wait<kChunks - kCount>();
    const Part part = this->part();
    int vec = part.first;
#pragma unroll 1
    for (int c = 0; c < kCount; ++c, vec += kWarpSize) {
#pragma unroll 1
      for (int j = 0; j < kVec; j += kUnit) {
        auto v = Vec<T, kUnit>::zero();
        if (uint32_t(vec) < part.whole) v = Vec<T, kUnit>::load(reinterpret_cast<const T*>(own_ + c * kSlot) + j);
        float x[kUnit];
        v.to_float(x);
        f(x);
      }
    }
  }
  /// The first pass, by eight elements of this thread: f(those of two vectors, or of one of 16-bit numbers), of all lanes of a warp
  /// together, with padding for what lies outside the row or the slice. What the ring holds after it is lost if it was no whole number of
  /// turns: start() it for another. What it reads leaves L2 first, so that what the kernel writes stays there, which else the next reads
  /// wait for (H200, renorm by top_p of 128 / 512 rows: 45.3 / 154.4 us, so 43.4 / 147.8).
  template <class F>
  __device__ void for_each_eight(const F& f) {
    constexpr int kVecs = 8 / kVec, kStep = kVecs * kWarpSize;
    static_assert(kChunks % kVecs == 0);
    const Part part = this->part();
    const T* const first = ptx::opaque(address_of(part, 0));
    int slot = 0, vec = part.first;
    // Below it all vectors of a turn are whole: else they are put together, or another warp's.
    const uint32_t whole_turns = uint32_t(max(int(part.whole) - (kVecs - 1) * kWarpSize, 0));
#pragma unroll 1
    for (int c = 0; c < part.chunks; c += kVecs) {
      ptx::cp_async_wait<kChunks - kVecs>();
      T* const place = reinterpret_cast<T*>(own_ + slot);
      if (uint32_t(vec) >= whole_turns) {
#pragma unroll
        for (int i = 0; i < kVecs; ++i) {
          const int at = vec + i * kWarpSize;
          if (uint32_t(at) >= part.whole) load_part(part, at).store(place + i * kThreads * kVec);
        }
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
      const int next = vec + kChunks * kWarpSize;
      const T* const from = first + int64_t(next) * kVec;
#pragma unroll
      for (int i = 0; i < kVecs; ++i) copy<true>(part, slot + i * kSlot, next + i * kWarpSize, from + i * kWarpSize * kVec, true);
      vec += kStep, slot = slot == (kChunks - kVecs) * kSlot ? 0 : slot + kVecs * kSlot;
    }
  }

  /// f(kUnit elements as floats, index of the first in the row, which may be negative, number of the chunk) for this thread's vectors or
  /// parts of them, all lanes of a warp together, with padding for what lies outside the row or the slice. What lies in chunks that
  /// needs(chunk) denies may read as zeros. Every pass goes the other way.
  template <int kUnit, class Needs, class F>
  __device__ void for_each(const Needs& needs, const F& f) {
    const Part part = this->part();
    const int step = forwards_ ? 1 : -1, start = forwards_ ? 0 : part.chunks - 1;
    forwards_ = !forwards_;
    int slot = start % kChunks * kSlot;  // of chunk c: c % kChunks, on the way back too
    const int turn = step * kSlot, end = step > 0 ? kChunks * kSlot : -kSlot, again = step > 0 ? 0 : (kChunks - 1) * kSlot;
    // What a chunk costs beside f is counted in instructions: vectors and addresses move by a step.
    const int vecs = step * kWarpSize;
    int vec = start * kWarpSize + part.first;
    const T* const from = address_of(part, 0);
#pragma unroll 1
    for (int c = start, count = part.chunks; count > 0; --count, c += step) {
      ptx::cp_async_wait<kChunks - 1>();  // a group a chunk, if an empty one: those of the chunks that come after this one may be under way
      T* const place = reinterpret_cast<T*>(own_ + slot);
      if (uint32_t(vec) >= part.whole) load_part(part, vec).store(place);
      const int first = slice_.index_of(part.begin + vec);
#pragma unroll 1
      for (int j = 0; j < kVec; j += kUnit) {
        float x[kUnit];
        Vec<T, kUnit>::load(place + j).to_float(x);
        f(x, first + j, c);
      }
      const int next = vec + kChunks * vecs;
      copy(part, slot, next, from + int64_t(next) * kVec, needs(c + step * kChunks));
      vec += vecs, slot += turn;
      if (slot == end) slot = again;
    }
  }

 private:
  unsigned char* const own_;
  const Row slice_;
  bool forwards_ = true;

  /// This warp's, found anew for every pass: kept, it would cost registers.
  struct Part {
    int begin;          // its first vector that lies within the row, from which they are counted
    int first, chunks;  // this lane's first; of the warp
    uint32_t whole;     // vectors from 0 up to this lie within the row; others are put together when they are needed

    __device__ explicit Part(const Row& slice) {
      // By a shuffle the compiler sees that it is the same in all lanes, which take as many turns then.
      const int thread = ptx::opaque(int(threadIdx.x)), warp = __shfl_sync(0xffffffffu, thread / kWarpSize, 0);
      const int share = share_of(slice), start = warp * share;
      begin = max(start, slice.first_whole());
      first = thread % kWarpSize - (begin - start), chunks = ceil_div(clamp(slice.count - start, 0, share), kWarpSize);
      whole = uint32_t(max(min(start + share, slice.end_whole()) - begin, 0));
    }
  };
  /// Of a warp; what is behind the last whole chunk of one is behind the slice.
  __device__ static int share_of(const Row& slice) { return round_up(ceil_div(slice.count, kWarps), kTogether * kWarpSize); }
  __device__ Part part() const { return Part(slice_); }
  __device__ const T* address_of(const Part& part, int vec) const {
    return slice_.base + (int64_t(slice_.begin) + part.begin + vec) * kVec;
  }
  __device__ Vector load_part(const Part& part, int vec) const { return slice_.load_part(part.begin + vec, kPadding); }
  /// A whole vector, or zeros. What is behind the end of the pass leaves its slot as it is.
  template <bool kNotAgain = false>
  __device__ void copy(const Part& part, int slot, int vec, const T* from, bool needed) const {
    if (uint32_t(vec) < part.whole) Row::template copy<kNotAgain>(own_ + slot, from, needed, slice_.needs_words());
    if constexpr (ptx::kHasCpAsync) ptx::cp_async_commit();
  }
};

}  // namespace flashinfer::gpu
