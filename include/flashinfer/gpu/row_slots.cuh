// One row after another, a slice of each in shared memory, where floats take the place of its elements (softmax). Every thread copies its
// own vectors, takes them from there, and copies those of the next row to the same places as it takes what it has left there for the last
// time. Nobody waits for anybody, and something is always on its way.
#pragma once

#include <flashinfer/gpu/ptx/cp_async_sm80.cuh>
#include <flashinfer/gpu/row_reader.cuh>

namespace flashinfer::gpu {

/// A chunk is a vector of 16 bytes a thread; a slice has no more than kChunks. kWidens: there is room for 16-bit rows as floats.
template <class T, int kThreads, int kCluster, int kChunks, bool kWidens = false>
class RowSlots {
  static constexpr int kSlot = kThreads * 16;
  static constexpr int kApart = 64;  // first and second halves lie in different banks

 public:
  using Element = T;
  using Row = RowVectors<T>;
  using Vector = typename Row::Vector;
  static constexpr int kVec = Row::kVec;
  /// Whether elements can be replaced by floats.
  static constexpr bool kReplaces = is_same_v<T, float> || kWidens;

  struct Smem {
    alignas(128) unsigned char slots[kChunks * kSlot];
    alignas(16) unsigned char seconds[kWidens ? kChunks * kSlot + kApart : 1];  // second halves of vectors, as floats
  };

  __device__ RowSlots(Smem& smem, int rank, int length) : smem_(smem), rank_(rank), length_(length) {}

  /// Begins to copy a row.
  __device__ void open(const T* row) {
    begin(row);
#pragma unroll 1
    for (int c = 0; c < kChunks; ++c) copy(c);
  }
  __device__ const Row& row() const { return row_; }

  /// f(vector) for this thread's vectors, with -inf for what lies outside the row or the slice. The first pass over a row, which waits for
  /// its copies.
  template <class F>
  __device__ void for_each_first(const F& f) {
    pass_first([&](const Vector& v, int c) {
      if (!is_whole(c)) row_.load_part(c * kThreads + int(threadIdx.x)).store(place(c * kSlot));
      f(v);
    });
  }
  /// f(four elements as floats) changes this thread's vectors, for for_each_replaced(), in the first pass.
  template <class F>
  __device__ void replace_first(const F& f) {
    pass_first([&](const Vector& v, int c) { replace(v, c * kSlot, f); });
  }
  /// The same in a later pass. What lies outside the row or the slice may read as NaN.
  template <class F>
  __device__ void replace(const F& f) {
#pragma unroll 1
    for (int slot = 0; slot < chunks_ * kSlot; slot += kSlot) replace(Vector::load(place(slot)), slot, f);
  }
  /// The row's elements again. Lanes have their own vectors there.
  __device__ void reload() {
#pragma unroll 1
    for (int c = 0; c < chunks_; ++c) row_.load(c * kThreads + int(threadIdx.x)).store(place(c * kSlot));
  }

  /// f(kUnit elements, index of the first in the row, which may be negative) for this thread's vectors or parts of them, after the first
  /// pass, all lanes of a warp together, with NaN for what lies outside the row or the slice.
  template <int kUnit, class F>
  __device__ void for_each(const F& f) const {
    int first = row_.index_of(int(threadIdx.x));
#pragma unroll 1
    for (int c = 0; c < chunks_; ++c, first += kThreads * kVec) {
#pragma unroll 1
      for (int i = 0; i < kVec; i += kUnit) f(Vec<T, kUnit>::load(place(c * kSlot) + i), first + i);
    }
  }
  /// f(four floats, index of the first in the row) for what replace() has left, while the next row is copied, if there is one; after a
  /// barrier. Lanes have neighbouring elements, for what a warp writes should not skip half of every sector: with 16-bit rows that lie in
  /// another lane's vector.
  template <class F>
  __device__ void for_each_replaced(const T* next, const F& f) {
    constexpr int kParts = kVec / 4;  // of a vector
    const int lane = int(threadIdx.x) % kWarpSize, chunks = chunks_;
    int first = row_.index_of(int(threadIdx.x) - lane);  // of the warp
    if (next) begin(next);
#pragma unroll 1
    for (int c = 0; c < kChunks; ++c, first += kThreads * kVec) {
      if (c < chunks) {
#pragma unroll
        for (int i = 0; i < kParts; ++i) {
          const int four = i * kWarpSize + lane;
          float x[4];
          Vec<float, 4>::load(replaced(c * kSlot, int(threadIdx.x) - lane + four / kParts, four % kParts)).to_float(x);
          f(x, first + four * 4);
        }
      }
      if (kParts > 1) __syncwarp();  // the lanes have what lay in each other's vectors
      if (next) copy(c);
    }
  }

 private:
  Smem& smem_;
  const int rank_, length_;
  Row row_;
  int chunks_ = 0, first_whole_ = 0;
  uint32_t whole_ = 0;  // vectors from first_whole_ on; others are put together when they are needed

  __device__ void begin(const T* row) {
    row_ = Row(row, length_, kCluster, rank_);
    chunks_ = ceil_div(row_.count, kThreads);
    first_whole_ = row_.first_whole(), whole_ = uint32_t(row_.end_whole() - first_whole_);
  }
  __device__ bool is_whole(int chunk) const { return uint32_t(chunk * kThreads + int(threadIdx.x) - first_whole_) < whole_; }
  __device__ T* place(int slot) const { return reinterpret_cast<T*>(smem_.slots + slot + threadIdx.x * 16); }
  /// A part of a thread's vector, as floats.
  __device__ float* replaced(int slot, int thread, int part) const {
    return reinterpret_cast<float*>((part == 0 ? smem_.slots : smem_.seconds + kApart) + slot + thread * 16);
  }
  /// A group of copies for every chunk, if an empty one.
  __device__ void copy(int chunk) const {
    if (is_whole(chunk)) {
      const T* from = row_.base + int64_t(row_.begin + chunk * kThreads + int(threadIdx.x)) * kVec;
      Row::copy(reinterpret_cast<unsigned char*>(place(chunk * kSlot)), from, true);
    }
    ptx::cp_async_commit();
  }
  /// f(vector, number of its chunk).
  template <class F>
  __device__ void pass_first(const F& f) {
#pragma unroll 1
    for (int c = 0; c < chunks_; ++c) {
      ptx::cp_async_wait<kChunks - 1>();  // of kChunks groups and an empty one for each that has been waited for
      f(is_whole(c) ? Vector::load(place(c * kSlot)) : row_.load_part(c * kThreads + int(threadIdx.x), Row::kLeast), c);
      ptx::cp_async_commit();
    }
  }
  template <class F>
  __device__ void replace(const Vector& v, int slot, const F& f) const {
    static_assert(kReplaces);
    float x[kVec];
    v.to_float(x);
#pragma unroll
    for (int i = 0; i < kVec; i += 4) {
      float y[4] = {x[i], x[i + 1], x[i + 2], x[i + 3]};
      f(y);
      Vec<float, 4>::from_float(y).store(replaced(slot, int(threadIdx.x), i / 4));
    }
  }
};

}  // namespace flashinfer::gpu
