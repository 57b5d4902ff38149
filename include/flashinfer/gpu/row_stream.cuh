// A slice of a row, read once: every thread copies its own vectors into a ring of its own in shared memory, some ahead, and takes them
// from there. Nobody waits for anybody, and what is on its way needs no registers (cp.async, from Ampere on; Turing loads and stores).
#pragma once

#include <flashinfer/gpu/ptx/cp_async_sm80.cuh>
#include <flashinfer/gpu/ptx/smem_address.cuh>
#include <flashinfer/gpu/row_reader.cuh>

namespace flashinfer::gpu {

template <class T, int kThreads, int kStages>
struct RowStream {
  using Vector = typename RowVectors<T>::Vector;
  static constexpr int kVec = RowVectors<T>::kVec;

  struct Smem {
    alignas(16) unsigned char ring[kStages * kThreads * 16];
  };

  /// f(vector, its number) for the vectors `first`, first + step, ... of the row's slice, `count` of them; what lies outside the row or the
  /// slice reads as `padding`.
  template <class F>
  __device__ static void for_each(Smem& smem, const RowVectors<T>& row, int first, int step, int count, uint32_t padding, const F& f) {
    Copies copies(smem, row, first, step);
    copies.fill();
    take(copies, row, first, step, count, padding, f);
  }

  /// The same in two parts: the first vectors, one less than the ring holds, are on their way while something else is done.
  __device__ static void start(Smem& smem, const RowVectors<T>& row, int first, int step) { Copies(smem, row, first, step).fill(); }
  template <class F>
  __device__ static void for_each_started(Smem& smem, const RowVectors<T>& row, int first, int step, int count, uint32_t padding,
                                          const F& f) {
    Copies copies(smem, row, first, step);
    copies.skip();
    take(copies, row, first, step, count, padding, f);
  }

 private:
  static constexpr uint32_t kSlot = kThreads * 16, kRing = kStages * kSlot;
  static_assert((kStages & (kStages - 1)) == 0 && (kThreads & (kThreads - 1)) == 0);

  /// Of this thread's vectors, one after another.
  struct Copies {
    unsigned char* own;
    int ahead, step;
    uint32_t whole;  // vectors that lie within the row, from the first such on; others are put together when they are needed
    const T* from;

    __device__ Copies(Smem& smem, const RowVectors<T>& row, int first, int step)
        : own(smem.ring + threadIdx.x * 16),
          ahead(first - row.first_whole()),
          step(step),
          whole(uint32_t(row.end_whole() - row.first_whole())),
          from(row.base + (int64_t(row.begin) + first) * kVec) {}

    __device__ void copy(uint32_t to) {
      const bool valid = uint32_t(ahead) < whole;
      if constexpr (ptx::kHasCpAsync) {
        ptx::cp_async_16(ptx::smem_address(own + to), from, valid);
        ptx::cp_async_commit();
      } else if (valid) {
        Vector::load(from).store(reinterpret_cast<T*>(own + to));
      }
      ahead += step, from += int64_t(step) * kVec;
    }
    __device__ void fill() {
#pragma unroll
      for (int s = 0; s < kStages - 1; ++s) copy(s * kSlot);
    }
    __device__ void skip() { ahead += (kStages - 1) * step, from += int64_t(kStages - 1) * step * kVec; }
  };

  template <class F>
  __device__ static void take(Copies& copies, const RowVectors<T>& row, int vec, int step, int count, uint32_t padding, const F& f) {
    const int first_whole = row.first_whole();
    uint32_t slot = 0;
#pragma unroll 1
    for (int c = 0; c < count; ++c) {
      ptx::cp_async_wait<kStages - 2>();
      Vector v = Vector::load(reinterpret_cast<const T*>(copies.own + slot));
      copies.copy((slot + kRing - kSlot) % kRing);
      if (uint32_t(vec - first_whole) >= copies.whole) v = row.load_part(vec, padding);
      f(v, vec);
      vec += step, slot = (slot + kSlot) % kRing;
    }
    ptx::cp_async_wait<0>();  // zeros for what lay behind the end are on their way to where the next call copies
  }
};

}  // namespace flashinfer::gpu
