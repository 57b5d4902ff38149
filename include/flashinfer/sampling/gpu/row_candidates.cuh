// Elements of a row that may be kept, as every warp of a block meets them in its vectors, in shared memory: few enough that what a row
// becomes is found, and written, without another look at it.
#pragma once

#include <flashinfer/gpu/dynamic_smem.cuh>
#include <flashinfer/gpu/row_reader.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// A warp has room for kRoom of them, and 2^16 elements at most: it meets vectors of kRowVec elements a lane, whose place is where they
/// come in all that it meets. (Places of each thread's own take fewer instructions where elements are met, but what is done with a list
/// then takes as long as the longest of a warp's threads: H200, renorm by top_p of 128 / 512 rows 56 / 174 us, so 52 / 173.)
template <int kThreads, int kRoom, int kRowVec>
class RowCandidates {
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kVec = 4;                       // elements that are listed together
  static constexpr int kTogether = 8;                  // and written, by a lane
  static constexpr int kStride = kWarpSize * kRowVec;  // of places, from a lane's vector to its next one

 public:
  struct List {
    float values[max(kRoom, 1)];
    uint16_t places[max(kRoom, 1)];
  };
  struct Smem {
    List of_warp[kWarps];
  };
  /// What a warp writes together, when nothing else needs the room.
  struct Window {
    alignas(16) float elements[kWarps][kWarpSize * kTogether];
  };

  __device__ explicit RowCandidates(Smem& smem) : list_(smem.of_warp[threadIdx.x / kWarpSize]) {}

  /// Of a lane's first element, and of what comes after kCount elements that have this place.
  static __device__ int first_place() { return int(threadIdx.x) % kWarpSize * kRowVec; }
  template <int kCount>
  static __device__ int next_place(int place) {
    if constexpr (kCount == kRowVec) return place + kStride;
    return place + kCount + ((place + kCount) % kRowVec == 0 ? kStride - kRowVec : 0);
  }
  /// Not if some lane may have put its own in the place of others.
  __device__ bool fit() const { return count_ <= kRoom - kVec; }
  /// By whole warps: those of neighbours, the first of which has this place, that reach `least`.
  __device__ void add(const float (&x)[kVec], int place, float least) {
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
    // What follows is found once, not again for every store.
    const int first = ptx::opaque(place);
    List& list = *reinterpret_cast<List*>(held_smem(reinterpret_cast<unsigned char*>(&list_)));
    int to = begin;
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      if (counts[j]) list.values[to] = x[j], list.places[to] = uint16_t(first + j);
      to += int(counts[j]);
    }
    count_ = __shfl_sync(0xffffffffu, at + to - begin, kWarpSize - 1);
  }
  /// f(elements, index_of_one) for those of this warp, which fit: kAtOnce of a lane together, so that their steps overlap where registers
  /// allow, with zeros to make up the number. index_of_one(k): index_of(thread, n, j) of the k-th, the j-th element of the n-th vector that
  /// a thread has met.
  template <int kAtOnce, class IndexOf, class F>
  __device__ void for_each(const IndexOf& index_of, const F& f) const {
    __syncwarp();
    const int warp = int(threadIdx.x) / kWarpSize * kWarpSize;
#pragma unroll 1  // mostly a few turns
    for (int i = int(threadIdx.x) % kWarpSize; i < count_; i += kAtOnce * kWarpSize) {
      float x[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) x[k] = k == 0 || i + k * kWarpSize < count_ ? list_.values[i + k * kWarpSize] : 0.0f;
      f(x, [&](int k) {
        const int place = list_.places[i + k * kWarpSize], lane = place / kRowVec % kWarpSize;
        return index_of(warp + lane, place / (kWarpSize * kRowVec), place % kRowVec);
      });
    }
  }
  /// Writes this warp's part of a row, of so many elements from one on: f(element, index) where there are candidates, 0 elsewhere. The next
  /// of them are put where they lie in the next vectors, so that the row is written once: stores of single elements took as long again as
  /// those of whole vectors (H100). Eight elements of a lane together: of sixteen that are hardly more than one, and looking for them takes
  /// more instructions than writing.
  template <class Out, class F>
  __device__ void write(int begin, int length, const RowWriter<Out, kVec>& writer, Window& window, const F& f) const {
    constexpr int kPlaces = kTogether * kWarpSize, kVecs = kTogether / kRowVec, kHalf = kVecs == 1 ? kVec : kStride;
    const int lane = int(threadIdx.x) % kWarpSize, own = lane * kRowVec;
    float* const elements = window.elements[threadIdx.x / kWarpSize];
    int written = 0;
#pragma unroll 1
    for (int before = 0; before < length; before += kPlaces) {
      const int first = begin + before;
      float y[2][kVec] = {};
      for (int count = kWarpSize, turn = 0; count == kWarpSize; ++turn) {
        const int at = written + lane, place = at < count_ ? int(list_.places[at]) - before : kPlaces;
        const bool here = place < kPlaces;
        count = __popc(__ballot_sync(0xffffffffu, here));
        if (count == 0) break;
        if (turn == 0) {
#pragma unroll
          for (int half = 0; half < 2; ++half) Vec<float, kVec>::from_float(y[half]).store(elements + own + half * kHalf);
        }
        __syncwarp();  // the window is empty, or what was before has been put there
        if (here) elements[place] = f(list_.values[at], first + place);
        __syncwarp();
#pragma unroll
        for (int half = 0; half < 2; ++half) Vec<float, kVec>::load(elements + own + half * kHalf).to_float(y[half]);
        written += count;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) writer.write(y[half], first + own + half * kHalf);
    }
  }

 private:
  List& list_;  // of this warp
  int count_ = 0;
};

}  // namespace flashinfer::gpu
