// A slice of a row, read once: every thread copies its own vectors into a ring of its own in shared memory, some ahead, and takes them
// from there. Nobody waits for anybody, and what is on its way needs no registers (cp.async, from Ampere on; Turing loads and stores).
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/ptx/cp_async_sm80.cuh>
#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/row_reader.cuh>

namespace flashinfer::gpu {

/// kApart: with every vector comes another, so many behind it. The ring has place for kStages, which need not be a power of two.
/// kOnce: what is read leaves L2 first, to what the kernel writes.
template <class T, int kThreads, int kStages, bool kAnywhere = false, int kApart = 0, bool kOnce = false>
struct RowStream {
  using Row = RowVectors<T, kAnywhere>;
  using Vector = typename Row::Vector;
  static constexpr int kVec = Row::kVec, kTogether = kApart > 0 ? 2 : 1;

  struct Smem {
    alignas(16) unsigned char ring[kStages * kThreads * 16];
  };

  /// The vectors `first`, first + step, ... of the row's slice, in two parts: the first ones, a step's less than the ring holds, are on
  /// their way while something else is done.
  __device__ static void start(Smem& smem, const Row& row, int first, int step) {
    const Copies copies(smem, row);
#pragma unroll
    for (int s = 0; s < kSteps - 1; ++s) copies.copy(s * kSlot, row.index_of(first + s * step));
  }
  /// f(vectors, index of the first one's first element, which may be negative or behind the end) for `count` of them; what lies outside the
  /// row or the slice reads as `padding`. In fewer registers: of vectors that come together kAtOnce are handed out, kUnit elements of each.
  template <int kAtOnce = kTogether, int kUnit = kVec, class F>
  __device__ static void for_each_started(Smem& smem, const Row& row, int first, int step, int count, uint32_t padding, const F& f) {
    // What a vector costs beside f is counted in instructions: its index says whether it is whole, and where it and the next to copy lie.
    const Copies copies(smem, row);
    constexpr int kParts = kTogether / kAtOnce * (kVec / kUnit);
    const int elements = step * kVec, ahead = (kSteps - 1) * elements;
    int index = row.index_of(first);
    const int stop = index + count * elements;
    uint32_t slot = 0;
#pragma unroll 1
    while (index != stop) {
      ptx::cp_async_wait<kSteps - 2>();
      copies.copy(before(slot), index + ahead);
      T* const own = reinterpret_cast<T*>(copies.own + slot);
      const auto part_at = [&](int at) { return row.load_part((at + row.skip) / kVec - row.begin, padding); };
      if constexpr (kTogether == 1) {
        static_assert(kUnit == kVec);
        Vector v[1] = {Vector::load(own)};
        if (uint32_t(index) >= copies.end) v[0] = part_at(index);
        f(v, index);
      } else {
        if (index > copies.last_pair || (!kAnywhere && index < 0)) {  // seldom, and one branch
#pragma unroll
          for (int i = 0; i < kTogether; ++i) {
            const int at = index + i * kApart * kVec;
            if (uint32_t(at) >= copies.end) part_at(at).store(own + i * kThreads * kVec);
          }
        }
#pragma unroll 1  // there is one copy of f
        for (int part = 0; part < kParts; ++part) {
          const int vec = part / (kVec / kUnit) * kAtOnce, unit = part % (kVec / kUnit) * kUnit;
          Vec<T, kUnit> v[kAtOnce];
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) v[i] = Vec<T, kUnit>::load(own + (vec + i) * kThreads * kVec + unit);
          f(v, index + vec * kApart * kVec + unit);
        }
      }
      index += elements, slot = after(slot);
    }
    ptx::cp_async_wait<0>();  // zeros for what lay behind the end are on their way to where the next call copies
  }

 private:
  static constexpr int kSteps = kStages / kTogether;
  static constexpr uint32_t kVecBytes = kThreads * 16, kSlot = kTogether * kVecBytes, kRing = kSteps * kSlot;
  static_assert(kSteps >= 2 && kSteps * kTogether == kStages && (kThreads & (kThreads - 1)) == 0);
  __device__ static uint32_t after(uint32_t slot) {
    if constexpr (is_power_of_two(kSteps)) return (slot + kSlot) % kRing;
    return slot == kRing - kSlot ? 0 : slot + kSlot;
  }
  __device__ static uint32_t before(uint32_t slot) {
    if constexpr (is_power_of_two(kSteps)) return (slot - kSlot) % kRing;
    return slot == 0 ? kRing - kSlot : slot - kSlot;
  }

  /// Of this thread's vectors.
  struct Copies {
    unsigned char* own;
    const T* row;
    uint32_t end;   // vectors of an index below that is not negative lie within the row; others are put together when they are needed
    int last_pair;  // so do vectors that come together up to this index
    bool by_words;

    __device__ Copies(Smem& smem, const Row& row)
        : own(held_smem(smem.ring + threadIdx.x * 16)),
          row(ptx::opaque(row.base + row.skip)),
          end(uint32_t(max(row.index_of(row.end_whole()), 0))),
          last_pair(row.index_of(row.end_whole() - kApart) - 1),
          by_words(row.needs_words()) {}

    __device__ void copy(uint32_t to, int index) const {
      const auto copy_all = [&](bool words) {
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
          Row::template copy<kOnce>(own + to + i * kVecBytes, row + index + i * kApart * kVec, uint32_t(index + i * kApart * kVec) < end,
                                    words);
      };
      if (by_words) [[unlikely]]
        copy_all(true);
      else
        copy_all(false);
      if constexpr (ptx::kHasCpAsync) ptx::cp_async_commit();
    }
  };
};

}  // namespace flashinfer::gpu
