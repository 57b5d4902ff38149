// A slice of a row, read once: every thread copies its own vectors into a ring of its own in shared memory, some ahead, and takes them
// from there. Nobody waits for anybody, and what is on its way needs no registers (cp.async, from Ampere on; Turing loads and stores).
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/cp_async_sm80.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/row_reader.cuh>

namespace flashinfer::gpu {

template <class T, int kThreads, int kStages, bool kAnywhere = false>
struct RowStream {
  using Row = RowVectors<T, kAnywhere>;
  using Vector = typename Row::Vector;
  static constexpr int kVec = Row::kVec;

  struct Smem {
    alignas(16) unsigned char ring[kStages * kThreads * 16];
  };

  /// f(vector, index of its first element, which may be negative or behind the end) for the vectors `first`, first + step, ... of the row's
  /// slice, `count` of them; what lies outside the row or the slice reads as `padding`.
  template <class F>
  __device__ static void for_each(Smem& smem, const Row& row, int first, int step, int count, uint32_t padding, const F& f) {
    start(smem, row, first, step);
    for_each_started(smem, row, first, step, count, padding, f);
  }

  /// The same in two parts: the first vectors, one less than the ring holds, are on their way while something else is done.
  __device__ static void start(Smem& smem, const Row& row, int first, int step) {
    const Copies copies(smem, row);
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) copies.copy(s * kSlot, row.index_of(first + s * step));
  }
  template <class F>
  __device__ static void for_each_started(Smem& smem, const Row& row, int first, int step, int count, uint32_t padding, const F& f) {
    // What a vector costs beside f is counted in instructions: its index says whether it is whole, and where it and the next to copy lie.
    const Copies copies(smem, row);
    const int elements = step * kVec, ahead = (kStages - 1) * elements;
    int index = row.index_of(first);
    uint32_t slot = 0;
#pragma unroll 1
    for (; count > 0; --count) {
      ptx::cp_async_wait<kStages - 2>();
      Vector v = Vector::load(reinterpret_cast<const T*>(copies.own + slot));
      copies.copy((slot + kRing - kSlot) % kRing, index + ahead);
      if (uint32_t(index) >= copies.end) v = row.load_part((index + row.skip) / kVec - row.begin, padding);
      f(v, index);
      index += elements, slot = (slot + kSlot) % kRing;
    }
    ptx::cp_async_wait<0>();  // zeros for what lay behind the end are on their way to where the next call copies
  }

 private:
  static constexpr uint32_t kSlot = kThreads * 16, kRing = kStages * kSlot;
  static_assert((kStages & (kStages - 1)) == 0 && (kThreads & (kThreads - 1)) == 0);

  /// Of this thread's vectors.
  struct Copies {
    unsigned char* own;
    const T* row;
    uint32_t end;  // vectors of an index below that is not negative lie within the row; others are put together when they are needed

    __device__ Copies(Smem& smem, const Row& row)
        : own(held_smem(smem.ring + threadIdx.x * 16)),
          row(ptx::opaque(row.base + row.skip)),
          end(uint32_t(max(row.index_of(row.end_whole()), 0))) {}

    __device__ void copy(uint32_t to, int index) const {
      Row::copy(own + to, row + index, uint32_t(index) < end);
      if constexpr (ptx::kHasCpAsync) ptx::cp_async_commit();
    }
  };
};

}  // namespace flashinfer::gpu
