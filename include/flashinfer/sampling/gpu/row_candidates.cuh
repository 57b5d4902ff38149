// Elements of a row that may be kept, as every warp of a block meets them in its vectors, in shared memory: few enough that what a row
// becomes is found, and written, without another look at it.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/row_reader.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// A warp has room for kRoom of them, and 2^16 elements at most. It meets vectors of kRowVec elements a lane, kVec of each at a time.
/// (Places of each thread's own take fewer instructions where elements are met, but what is done with a list then takes as long as the
/// longest of a warp's threads: H200, renorm by top_p of 128 / 512 rows 56 / 174 us, so 52 / 173.)
template <int kThreads, int kRoom, int kVec, int kRowVec>
class RowCandidates {
  static constexpr int kWarps = kThreads / kWarpSize;

 public:
  struct List {
    float values[max(kRoom, 1)];
    uint16_t places[max(kRoom, 1)];  // among the elements of the warp
  };
  struct Smem {
    List of_warp[kWarps];
  };
  /// What a warp writes together, when nothing else needs the place.
  struct Window {
    float elements[kWarps][kWarpSize][kVec];
  };

  __device__ explicit RowCandidates(Smem& smem) : list_(smem.of_warp[threadIdx.x / kWarpSize]) {}

  /// Not if some lane may have put its own in the place of others.
  __device__ bool fit() const { return count_ <= kRoom - kVec; }
  /// By whole warps: those of a lane's elements, the first of which is its `place`-th, that reach `least`.
  __device__ void add(const float (&x)[kVec], int place, float least) {
    static_assert(kVec == 4);
    const int lane = int(threadIdx.x) % kWarpSize;
    bool counts[kVec];
    uint32_t lanes[kVec];
#pragma unroll
    for (int j = 0; j < kVec; ++j) lanes[j] = __ballot_sync(0xffffffffu, counts[j] = x[j] >= least);
    // How many lanes before this one have: the sums of their four bits, as adders make them, are three words whose bits are counted, not
    // four. An SM counts the bits of 16 lanes' words a clock.
    const uint32_t of_three = lanes[0] ^ lanes[1] ^ lanes[2], before = (1u << lane) - 1;
    const uint32_t ones = (of_three ^ lanes[3]) & before, two = of_three & lanes[3] & before;
    const uint32_t twos = ((lanes[0] & lanes[1]) | (lanes[2] & (lanes[0] ^ lanes[1]))) & before;
    const int at = count_ + __popc(ones) + 2 * (__popc(twos) + __popc(two)), begin = min(at, kRoom - kVec);
    // Both are found once, not again for every store.
    const int first = ptx::opaque((place / kRowVec * kWarpSize + lane) * kRowVec + place % kRowVec);
    List& list = *reinterpret_cast<List*>(held_smem(reinterpret_cast<unsigned char*>(&list_)));
    int to = begin;
#pragma unroll
    for (int j = 0; j < kVec; ++j)
      if (counts[j]) list.values[to] = x[j], list.places[to] = uint16_t(first + j), ++to;
    count_ = __shfl_sync(0xffffffffu, at + to - begin, kWarpSize - 1);
  }
  /// f(element, index) for those of this warp, which fit; index_of(thread, n, j): of the j-th element of the n-th vector that a thread has
  /// met.
  template <class IndexOf, class F>
  __device__ void for_each(const IndexOf& index_of, const F& f) const {
    __syncwarp();
    const int warp = int(threadIdx.x) / kWarpSize * kWarpSize;
#pragma unroll 1  // mostly a few turns, and registers are few
    for (int i = int(threadIdx.x) % kWarpSize; i < count_; i += kWarpSize) {
      const int place = list_.places[i], lane = place / kRowVec % kWarpSize;
      f(list_.values[i], index_of(warp + lane, place / (kWarpSize * kRowVec), place % kRowVec));
    }
  }
  /// Writes f(element, index) where there are candidates, 0 elsewhere. A warp's next candidates are put where they lie in its next vectors,
  /// so that the row is written once: stores of single elements took as long again as those of whole vectors (H100).
  template <class T, class Out, class F>
  __device__ void write(const RowVectors<T>& row, const RowWriter<Out, kVec>& writer, Window& window, const F& f) const {
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    float(&elements)[kWarpSize][kVec] = window.elements[warp];
    int written = 0;
#pragma unroll 1
    for (int vec = warp * kWarpSize, before = 0; vec < row.count; vec += kThreads, before += kWarpSize * kRowVec) {
#pragma unroll 1
      for (int part = 0; part < kRowVec; part += kVec) {
        float y[kVec] = {};
        for (int count = kWarpSize, turn = 0; count == kWarpSize; ++turn) {
          const int at = written + lane;
          const int place = at < count_ ? int(list_.places[at]) - before - part : kNone;
          const bool here = place < kWarpSize * kRowVec - part && place % kRowVec < kVec;
          count = __popc(__ballot_sync(0xffffffffu, here));
          if (count == 0) break;
          if (turn == 0) Vec<float, kVec>::from_float(y).store(elements[lane]);
          __syncwarp();  // the window is empty, or what was before has been put there
          if (here) (&elements[0][0])[in_window(uint32_t(place))] = f(list_.values[at], row.index_of(vec) + part + place);
          __syncwarp();
          Vec<float, kVec>::load(elements[lane]).to_float(y);
          written += count;
        }
        writer.write(y, (vec + lane) * kRowVec + part - row.skip);
      }
    }
  }

 private:
  static constexpr int kNone = 1 << 30;
  /// Of the elements of a window, the one that lies at this place.
  __device__ static uint32_t in_window(uint32_t place) { return kVec == kRowVec ? place : place / kRowVec * kVec + place % kRowVec; }
  List& list_;  // of this warp
  int count_ = 0;
};

}  // namespace flashinfer::gpu
