// Elements of a row that may be kept, as every warp of a block meets them in its vectors, in shared memory: few enough that what a row
// becomes is found, and written, without another look at it.
#pragma once

#include <flashinfer/gpu/row_reader.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// A warp has room for kRoom of them. It meets vectors of 16 bytes a lane in the order of the row, kVec elements of each at a time.
template <int kThreads, int kRoom, int kVec>
class RowCandidates {
  static constexpr int kWarps = kThreads / kWarpSize;

 public:
  struct Smem {
    uint64_t elements[kWarps][max(kRoom, 1)];  // value and index
  };
  /// What a warp writes together, when nothing else needs the place.
  struct Window {
    float elements[kWarps][kWarpSize][kVec];
  };

  __device__ explicit RowCandidates(Smem& smem) : elements_(smem.elements[threadIdx.x / kWarpSize]) {}

  __device__ bool fit() const { return count_ <= kRoom; }
  /// By whole warps: those of a lane's elements, the first of which has this index, that reach `least`.
  __device__ void add(const float (&x)[kVec], int first, float least) {
    const uint32_t before = (1u << threadIdx.x % kWarpSize) - 1;
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const bool counts = x[j] >= least;
      const uint32_t lanes = __ballot_sync(0xffffffffu, counts);
      const int at = count_ + __popc(lanes & before);
      if (counts && at < kRoom) elements_[at] = uint64_t(bit_cast<uint32_t>(x[j])) << 32 | uint32_t(first + j);
      count_ += __popc(lanes);
    }
  }
  /// f(element, index) for those of this warp, which fit.
  template <class F>
  __device__ void for_each(const F& f) const {
    __syncwarp();
    for (int i = int(threadIdx.x) % kWarpSize; i < count_; i += kWarpSize) f(value(elements_[i]), index(elements_[i]));
  }
  /// Writes f(element, index) where there are candidates, 0 elsewhere. A warp's next candidates are put where they lie in its next vectors,
  /// so that the row is written once: stores of single elements took as long again as those of whole vectors (H100).
  template <class T, class Out, class F>
  __device__ void write(const RowVectors<T>& row, const RowWriter<Out, kVec>& writer, Window& window, const F& f) const {
    constexpr int kRowVec = RowVectors<T>::kVec;
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    float(&elements)[kWarpSize][kVec] = window.elements[warp];
    int written = 0;
#pragma unroll 1
    for (int vec = warp * kWarpSize; vec < row.count; vec += kThreads) {
#pragma unroll 1
      for (int part = 0; part < kRowVec; part += kVec) {
        float y[kVec] = {};
        for (int count = kWarpSize, turn = 0; count == kWarpSize; ++turn) {
          const int at = written + lane;
          const uint64_t candidate = at < count_ ? elements_[at] : 0;
          const int place = index(candidate) + row.skip - vec * kRowVec - part;
          const bool here = at < count_ && place < kWarpSize * kRowVec - part && place % kRowVec < kVec;
          count = __popc(__ballot_sync(0xffffffffu, here));
          if (count == 0) break;
          if (turn == 0) Vec<float, kVec>::from_float(y).store(elements[lane]);
          __syncwarp();  // the window is empty, or what was before has been put there
          if (here) elements[place / kRowVec][place % kRowVec] = f(value(candidate), index(candidate));
          __syncwarp();
          Vec<float, kVec>::load(elements[lane]).to_float(y);
          written += count;
        }
        writer.write(y, (vec + lane) * kRowVec + part - row.skip);
      }
    }
  }

 private:
  uint64_t* const elements_;  // of this warp
  int count_ = 0;

  static __device__ float value(uint64_t element) { return bit_cast<float>(uint32_t(element >> 32)); }
  static __device__ int index(uint64_t element) { return int(uint32_t(element)); }
};

}  // namespace flashinfer::gpu
