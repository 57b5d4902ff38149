// One row after another, as the blocks of a cluster hold them: every block has a slice of each row, every thread the same vectors of its
// slice in every pass. Resident rows (SM90) are copied to shared memory by the copy engine, in chunks of one vector a thread through a
// ring that runs ahead into the next rows; others are read from global memory in every pass, from L2 but the first time.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/ptx/bulk_copy_sm90.cuh>
#include <flashinfer/gpu/vec.cuh>

namespace flashinfer::gpu {

/// Vectors of 16 bytes that a row's elements lie in, wherever the row begins; places outside the row read as NaN.
template <class T>
struct RowVectors {
  static constexpr int kVec = 16 / int(sizeof(T));
  const T* base;      // aligned; the row's first element is base[skip]
  int skip, length;   // elements
  int begin, count;   // the slice: vectors [begin, begin + count)

  RowVectors() = default;
  __device__ RowVectors(const T* row, int length, int blocks, int rank) : length(length) {
    skip = int(uintptr_t(row) % 16 / sizeof(T));
    base = row - skip;
    const int total = ceil_div(length + skip, kVec), share = ceil_div(total, blocks);
    begin = min(rank * share, total);
    count = min(share, total - begin);
  }
  __device__ int first_index(int vec) const { return vec < count ? (begin + vec) * kVec - skip : length; }
  __device__ bool is_whole(int vec) const { return first_index(vec) >= 0 && first_index(vec) + kVec <= length; }

  static __device__ uint32_t nan_bits() { return is_same_v<T, float> ? 0x7fc00000u : is_same_v<T, f16> ? 0x7e007e00u : 0x7fc07fc0u; }
  /// A vector that lies partly outside the row, element by element.
  __device__ Vec<T, kVec> load_part(int vec) const {
    Vec<T, kVec> v;
#pragma unroll
    for (uint32_t& word : v.words) word = nan_bits();
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const int i = first_index(vec) + j;
      if (i < 0 || i >= length) continue;
      const T x = base[i + skip];
      if constexpr (sizeof(T) == 4) {
        v.words[j] = bit_cast<uint32_t>(x);
      } else {
        v.words[j / 2] = j % 2 ? (v.words[j / 2] & 0xffffu) | uint32_t(x.bits) << 16 : (v.words[j / 2] & 0xffff0000u) | x.bits;
      }
    }
    return v;
  }
  __device__ Vec<T, kVec> load(int vec) const {
    return is_whole(vec) ? Vec<T, kVec>::load(base + int64_t(begin + vec) * kVec) : load_part(vec);
  }
};

/// Writes a row of the same length, from vectors of its elements as the reader hands them out.
template <class Out, int kVec>
class RowWriter {
 public:
  /// `skip` of the row that is read.
  __device__ RowWriter(Out* row, int skip, int length)
      : row_(row), length_(length), aligned_((uintptr_t(row) - uintptr_t(skip) * sizeof(Out)) % Vec<Out, kVec>::kAlignment == 0) {}

  __device__ void write(const float (&y)[kVec], int first) const {
    const Vec<Out, kVec> v = Vec<Out, kVec>::from_float(y);
    if (aligned_ && first >= 0 && first + kVec <= length_) return v.store(row_ + first);
#pragma unroll
    for (int j = 0; j < kVec; ++j)
      if (first + j >= 0 && first + j < length_) store_float(row_ + first + j, y[j]);
  }

 private:
  Out* row_;
  int length_;
  bool aligned_;
};

/// kChunks == 0: rows are read in every pass.
template <class T, int kThreads, int kCluster, int kChunks>
class RowReader {
 public:
  static constexpr int kVec = 16 / int(sizeof(T)), kChunkBytes = kThreads * 16;
  using Vector = Vec<T, kVec>;

  struct Smem {
    alignas(128) unsigned char chunks[max(kChunks * kChunkBytes, 1)];
    uint64_t full[max(kChunks, 1)];
    // What has been copied so far, known to the copying thread: the row that is being copied, its next chunk, chunks of all rows.
    int32_t row, chunk;
    uint32_t copied;
  };

  /// The first of the rows that this block works on.
  /// The caller lets all threads meet before copy_ahead().
  __device__ RowReader(Smem& smem, int rank, int length, int first) : smem_(smem), rank_(rank), length_(length) {
    if constexpr (kChunks > 0) {
      if (threadIdx.x == 0) {
        smem.row = first, smem.chunk = 0, smem.copied = 0;
        for (int i = 0; i < kChunks; ++i) ptx::mbarrier_init(&smem.full[i], 1);
        ptx::mbarrier_init_fence();
      }
    }
  }

  /// Copies as far ahead as the ring reaches: the rows after the one that was copied last, `step` apart, below num_rows; row_at(i) is where
  /// row i begins. After the dependency wait, by every thread.
  template <class RowAt>
  __device__ void copy_ahead(int step, int num_rows, const RowAt& row_at) {
    if constexpr (kChunks > 0) {
      if (threadIdx.x != 0) return;
      int ahead = smem_.row, chunk = smem_.chunk;
      uint32_t copied = smem_.copied;
      for (; ahead < num_rows; ahead += step, chunk = 0) {
        const RowVectors<T> row(row_at(ahead), length_, kCluster, rank_);
        for (; chunk * kThreads < row.count && copied - done_ < kChunks; ++chunk, ++copied) {
          const int slot = int(copied % kChunks);
          // Vectors that lie partly outside the row are left to the threads they belong to.
          const int from = max(chunk * kThreads, row.begin == 0 && row.skip > 0 ? 1 : 0);
          const int to = min(min((chunk + 1) * kThreads, row.count), (row.length + row.skip) / kVec - row.begin);
          if (to > from) {
            const uint32_t bytes = uint32_t(to - from) * 16;
            ptx::mbarrier_arrive_expect(&smem_.full[slot], bytes);
            ptx::bulk_copy(smem_.chunks + slot * kChunkBytes + (from - chunk * kThreads) * 16, row.base + int64_t(row.begin + from) * kVec,
                           bytes, &smem_.full[slot]);
          } else {
            ptx::mbarrier_arrive(&smem_.full[slot]);
          }
        }
        if (chunk * kThreads < row.count) break;  // the ring is full
      }
      smem_.row = ahead, smem_.chunk = chunk, smem_.copied = copied;
    }
  }

  /// The next row, which begins at `row`.
  __device__ void open(const T* row) {
    row_ = RowVectors<T>(row, length_, kCluster, rank_);
    chunks_ = ceil_div(row_.count, kThreads);
  }
  /// No thread needs the row any more. A barrier of the block.
  __device__ void close() {
    if constexpr (kChunks > 0) {
      __syncthreads();
      done_ += uint32_t(chunks_);
    }
  }

  __device__ const RowVectors<T>& row() const { return row_; }

  /// f(vector, its first element's index in the row, which may be negative) for this thread's vectors, all lanes of a warp together: those
  /// that have none get NaN. The first pass of a row waits for the copies.
  template <bool kFirst = false, class F>
  __device__ void for_each(const F& f) const {
    if constexpr (kChunks > 0) {
#pragma unroll 1
      for (int c = 0; c < chunks_; ++c) {
        const uint32_t at = done_ + uint32_t(c), slot = at % kChunks;
        const int vec = c * kThreads + int(threadIdx.x);
        T* place = reinterpret_cast<T*>(smem_.chunks + slot * kChunkBytes) + threadIdx.x * kVec;
        if constexpr (kFirst) {
          ptx::mbarrier_wait(&smem_.full[slot], at / kChunks & 1);
          if (vec < row_.count && !row_.is_whole(vec)) {
            row_.load_part(vec).store(place);
            ptx::async_proxy_fence();  // the copy engine writes here next
          }
        }
        f(vec < row_.count ? Vector::load(place) : nothing(), row_.first_index(vec));
      }
    } else {
      constexpr int kBatch = 4;
#pragma unroll 1
      for (int c = 0; c < chunks_; c += kBatch) {
        Vector v[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const int vec = (c + i) * kThreads + int(threadIdx.x);
          v[i] = vec < row_.count ? row_.load(vec) : nothing();
        }
#pragma unroll 1
        for (int i = 0; i < kBatch && c + i < chunks_; ++i) {
          f(v[0], row_.first_index((c + i) * kThreads + int(threadIdx.x)));
#pragma unroll
          for (int next = 1; next < kBatch; ++next) v[next - 1] = v[next];  // no code for each
        }
      }
    }
  }

 private:
  static __device__ Vector nothing() {
    Vector v;
#pragma unroll
    for (uint32_t& word : v.words) word = RowVectors<T>::nan_bits();
    return v;
  }

  Smem& smem_;
  const int rank_, length_;
  uint32_t done_ = 0;  // chunks of the rows before this one
  RowVectors<T> row_;
  int chunks_ = 0;
};

}  // namespace flashinfer::gpu
