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
    alignas(16) T ring[kStages][kThreads][kVec];
  };

  /// f(vector, its number) for the vectors `first`, first + step, ... of the row's slice, `count` of them; what lies outside the row or the
  /// slice reads as `padding`.
  template <class F>
  __device__ static void for_each(Smem& smem, const RowVectors<T>& row, int first, int step, int count, uint32_t padding, const F& f) {
    const int thread = int(threadIdx.x), first_whole = row.first_whole(), end_whole = row.end_whole();
    int ahead = first, vec = first, copied = 0, slot = 0;
    const T* from = row.base + (int64_t(row.begin) + ahead) * kVec;
    auto copy = [&](int to) {
      T* place = smem.ring[to][thread];
      if (copied < count) {
        if (ahead < first_whole || ahead >= end_whole) {
          row.load_part(ahead, padding).store(place);
        } else if constexpr (ptx::kHasCpAsync) {
          ptx::cp_async_16(ptx::smem_address(place), from, true);
        } else {
          Vector::load(from).store(place);
        }
      }
      ptx::cp_async_commit();
      ++copied, ahead += step, from += int64_t(step) * kVec;
    };
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) copy(s);
#pragma unroll 1
    for (int c = 0; c < count; ++c, vec += step, slot = (slot + 1) % kStages) {
      ptx::cp_async_wait<kStages - 2>();
      const Vector v = Vector::load(smem.ring[slot][thread]);
      copy((slot + kStages - 1) % kStages);
      f(v, vec);
    }
  }
};

}  // namespace flashinfer::gpu
