// One row after another, as the blocks of a cluster hold them: every block has a slice of each row, every thread the same vectors of its
// slice in every pass. Resident rows (SM90) are copied to shared memory by the copy engine, in chunks of one vector a thread through a
// ring that runs ahead into the next rows; others are read from global memory in every pass, from L2 but the first time.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/gpu/ptx/bulk_copy_sm90.cuh>
#include <flashinfer/gpu/ptx/cp_async_sm80.cuh>
#include <flashinfer/gpu/ptx/smem_address.cuh>
#include <flashinfer/gpu/vec.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>

namespace flashinfer::gpu {

/// Vectors of 16 bytes that a row's elements lie in, wherever the row begins; places outside the row read as NaN. `kAnywhere`: the first
/// vector begins with the row, if that is no multiple of 16 bytes either; then they are only copied, word by word.
template <class T, bool kAnywhere = false>
struct RowVectors {
  static constexpr int kVec = 16 / int(sizeof(T));
  using Vector = Vec<T, kVec>;
  const T* base;     // aligned; the row's first element is base[skip]
  int skip, length;  // elements
  int begin, count;  // the slice: vectors [begin, begin + count)

  RowVectors() = default;
  /// A slice begins at a multiple of `together` vectors.
  __device__ RowVectors(const T* row, int length, int blocks, int rank, int together = 1) : length(length) {
    skip = kAnywhere ? 0 : int(uintptr_t(row) % 16 / sizeof(T));
    base = row - skip;
    const int total = ceil_div(length + skip, kVec), share = round_up(ceil_div(total, blocks), together);
    begin = min(rank * share, total);
    count = min(share, total - begin);
  }
  /// Of a vector's first element, which may be negative, behind the end, or another slice's.
  __device__ int index_of(int vec) const { return (begin + vec) * kVec - skip; }
  __device__ int first_index(int vec) const { return vec < count ? index_of(vec) : length; }
  __device__ bool holds(int index) const { return uint32_t((index + skip) / kVec - begin) < uint32_t(count); }  // of an element
  __device__ bool is_whole(int vec) const { return first_index(vec) >= 0 && first_index(vec) + kVec <= length; }

  /// Vectors of the slice from first_whole() up to end_whole() lie within the row.
  __device__ int first_whole() const { return begin == 0 && skip > 0 ? 1 : 0; }
  __device__ int end_whole() const { return max(min(count, (length + skip) / kVec - begin), first_whole()); }

  static constexpr uint32_t kNan = is_same_v<T, float> ? 0x7fc00000u : is_same_v<T, f16> ? 0x7e007e00u : 0x7fc07fc0u;
  static constexpr uint32_t kLeast = is_same_v<T, float> ? 0xff800000u : is_same_v<T, f16> ? 0xfc00fc00u : 0xff80ff80u;  // -inf
  /// A vector that lies partly or wholly outside the row or the slice; `padding` in every other place.
  __device__ Vec<T, kVec> load_part(int vec, uint32_t padding = kNan) const {
    return load_part(base + skip, first_index(vec), length, padding);
  }
  __device__ Vec<T, kVec> load(int vec) const {
    static_assert(!kAnywhere);
    return is_whole(vec) ? Vec<T, kVec>::load(base + int64_t(begin + vec) * kVec) : load_part(vec);
  }
  /// The vectors first, first + step, ...: all loads are under way before one is looked at.
  template <int kCount>
  __device__ void load(Vec<T, kVec> (&held)[kCount], int first, int step) const {
    static_assert(!kAnywhere);
    const T* const from = base + int64_t(begin + first) * kVec;
    const int skipped = first_whole();
    const uint32_t whole = uint32_t(end_whole() - skipped);
    bool parts = false;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int vec = first + i * step;
      const bool valid = uint32_t(vec - skipped) < whole;
#pragma unroll
      for (uint32_t& word : held[i].words) word = kNan;
      if (valid) held[i] = Vec<T, kVec>::load(from + int64_t(i) * step * kVec);
      parts |= !valid && vec < count;
    }
    if (!parts) return;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      if (!is_whole(first + i * step)) held[i] = load_part(first + i * step);
  }
  /// kCount vectors of this thread, those of a warp side by side and the warps' spread over the slice, and where the i-th of them lies. NaN
  /// outside.
  template <int kThreads, int kCount>
  __device__ void load_spread(Vec<T, kVec> (&held)[kCount]) const {
    load(held, spread_to<kThreads, kCount>(0), spread<kThreads, kCount>());
  }
  template <int kThreads, int kCount>
  __device__ int spread_to(int i) const {
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    return spread<kThreads, kCount>() * (kCount * warp + i) + lane;
  }
  /// Whether vectors are copied word by word.
  __device__ bool needs_words() const { return kAnywhere && uintptr_t(base) % 16 != 0; }
  /// A vector that lies within the row, or zeros, to this thread's own place in shared memory: where there is cp.async, by a copy that the
  /// caller commits, or one for each word. kOnce: nobody reads it from L2 again.
  template <bool kOnce = false>
  static __device__ void copy(unsigned char* to, const T* from, bool valid, bool by_words = false) {
    if constexpr (ptx::kHasCpAsync) {
      if (!by_words) {
        ptx::cp_async_16<kOnce>(ptx::smem_address(to), from, valid);
      } else {
        copy_words(ptx::smem_address(to), from, valid);
      }
    } else {
      Vector v = Vector::zero();
      if (valid) v = by_words ? load_part(from, 0, kVec, 0) : Vector::load(from);
      v.store(reinterpret_cast<T*>(to));
    }
  }

 private:
  template <int kThreads, int kCount>
  __device__ int spread() const {
    return count / (kThreads / kWarpSize * kCount);
  }
  /// Not where vectors are copied: these instructions would be issued for every one, with predicates that are off.
  static __device__ __noinline__ void copy_words(uint32_t to, const T* from, bool valid) {
#pragma unroll
    for (int j = 0; j < 4; ++j) ptx::cp_async_4(to + 4 * j, from + j * kVec / 4, valid);
  }
  /// Element by element; rare, and there once.
  static __device__ __noinline__ Vec<T, kVec> load_part(const T* row, int first, int length, uint32_t padding) {
    Vec<T, kVec> v;
#pragma unroll
    for (uint32_t& word : v.words) word = padding;
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      if (first + j < 0 || first + j >= length) continue;
      const T x = row[first + j];
      if constexpr (sizeof(T) == 4) {
        v.words[j] = bit_cast<uint32_t>(x);
      } else {
        v.words[j / 2] = j % 2 ? (v.words[j / 2] & 0xffffu) | uint32_t(x.bits) << 16 : (v.words[j / 2] & 0xffff0000u) | x.bits;
      }
    }
    return v;
  }
};

/// Writes a row of the same length, from vectors of its elements as the reader hands them out.
template <class Out, int kVec>
class RowWriter {
 public:
  template <class T>
  __device__ RowWriter(Out* row, const RowVectors<T>& read)
      : row_(row), end_(min((read.begin + read.count) * RowVectors<T>::kVec - read.skip, read.length)) {
    const bool aligned = (uintptr_t(row) - uintptr_t(read.skip) * sizeof(Out)) % Vec<Out, kVec>::kAlignment == 0;
    whole_ = aligned && end_ >= kVec ? uint32_t(end_ - kVec + 1) : 0;
  }

  __device__ void write(const float (&y)[kVec], int first) const {
    if (uint32_t(first) < whole_) {
      Vec<Out, kVec>::from_float(y).store_global(row_ + first);
    } else if (first < end_) {
      write_part(row_, first, end_, Vec<float, kVec>::from_float(y));
    }
  }

 private:
  /// Element by element, and there once: inline, these stores are issued for every vector, with predicates that are off, and fill the queue
  /// of the memory pipe (a tenth of renorm by top_p).
  static __device__ __noinline__ void write_part(Out* row, int first, int end, Vec<float, kVec> v) {
    float y[kVec];
    v.to_float(y);
#pragma unroll
    for (int j = 0; j < kVec; ++j)
      if (first + j >= 0 && first + j < end) store_float(row + first + j, y[j]);
  }

  Out* row_;
  int end_;         // of the slice
  uint32_t whole_;  // vectors that begin before this element, not before the row, are stored at once
};

/// Writes `value` to every element of a slice, by all threads of a block.
template <int kThreads, class Out>
FLASHINFER_DEVICE void fill_row(Out* row, const RowVectors<Out>& slice, float value) {
  constexpr int kVec = RowVectors<Out>::kVec;
  const RowWriter<Out, kVec> writer(row, slice);
  float values[kVec];
#pragma unroll
  for (float& y : values) y = value;
#pragma unroll 4
  for (int vec = int(threadIdx.x); vec < slice.count; vec += kThreads) writer.write(values, slice.first_index(vec));
}

/// kChunks == 0: rows are read in every pass.
template <class T, int kThreads, int kCluster, int kChunks>
class RowReader {
 public:
  static constexpr int kVec = 16 / int(sizeof(T)), kChunkBytes = kThreads * 16;
  static_assert(kChunks > 0 || kCluster == 1);
  using Element = T;
  using Vector = Vec<T, kVec>;

  struct Smem {
    alignas(128) unsigned char chunks[max(kChunks * kChunkBytes, 1)];
    uint64_t full[max(kChunks, 1)];
    // What has been copied so far, known to the copying thread: the row that is being copied, its next chunk, and the slot of that.
    int32_t row, chunk;
    uint32_t slot, in_use;  // slots
  };

  /// `first` of the rows that this block works on. The caller lets all threads meet before copy_ahead().
  __device__ RowReader(Smem& smem, int rank, int length, int first) : smem_(smem), rank_(rank), length_(length), first_(first) {
    if constexpr (kChunks > 0) {
      if (threadIdx.x == 0) {
#pragma unroll 1
        for (int i = 0; i < kChunks; ++i) ptx::mbarrier_init(&smem.full[i], 1);
        ptx::mbarrier_init_fence();
      }
    }
  }

  /// Copies as far ahead as the ring reaches: from the first row, or the one that was copied last, rows `step` apart, below num_rows, but
  /// those that skips(i); row_at(i) is where row i begins. After the dependency wait, by every thread, and before open().
  template <class RowAt>
  __device__ void copy_ahead(int step, int num_rows, const RowAt& row_at) {
    copy_ahead(step, num_rows, row_at, [](int) { return false; });
  }
  template <class RowAt, class Skips>
  __device__ void copy_ahead(int step, int num_rows, const RowAt& row_at, const Skips& skips) {
    if constexpr (kChunks > 0) {
      const bool at_first = !opened_;
      if (threadIdx.x % kWarpSize != 0 || (threadIdx.x != 0 && !at_first)) return;
      int ahead = first_, chunk = 0;
      uint32_t slot = 0, in_use = 0;
      if (at_first) {
        // Some 250 clocks a chunk: every warp asks for some of the first row's.
        while (ahead < num_rows && skips(ahead)) ahead += step;
        if (ahead >= num_rows) return;
        const RowVectors<T> row(row_at(ahead), length_, kCluster, rank_);
        const int count = min(ceil_div(row.count, kThreads), kChunks);
        for (int c = int(threadIdx.x) / kWarpSize; c < count; c += kThreads / kWarpSize) copy(row, c, c);
        if (threadIdx.x != 0) return;
        chunk = count, slot = uint32_t(count % kChunks), in_use = uint32_t(count);
      } else {
        ahead = smem_.row, chunk = smem_.chunk, slot = smem_.slot, in_use = smem_.in_use;
      }
      for (; ahead < num_rows; ahead += step, chunk = 0) {
        if (skips(ahead)) continue;
        const RowVectors<T> row(row_at(ahead), length_, kCluster, rank_);
        for (; chunk * kThreads < row.count && in_use < kChunks; ++chunk, ++in_use) {
          copy(row, chunk, slot);
          if (++slot == kChunks) slot = 0;
        }
        if (chunk * kThreads < row.count) break;  // the ring is full
      }
      smem_.row = ahead, smem_.chunk = chunk, smem_.slot = slot, smem_.in_use = in_use;
    }
  }

  /// The next row, which begins at `row`.
  __device__ void open(const T* row) {
    row_ = RowVectors<T>(row, length_, kCluster, rank_);
    chunks_ = ceil_div(row_.count, kThreads);
    opened_ = true;
  }
  /// No thread needs the row any more. A barrier of the block.
  __device__ void close() {
    if constexpr (kChunks > 0) {
      __syncthreads();
      if (threadIdx.x == 0) smem_.in_use -= uint32_t(chunks_);
      at_ = (at_ + uint32_t(chunks_)) % (2 * kChunks);
    }
  }

  __device__ const RowVectors<T>& row() const { return row_; }

  /// f(vector) for this thread's vectors, with -inf for what lies outside the row or the slice. The first pass over a row, which waits for
  /// the copies.
  template <class F>
  __device__ void for_each_first(const F& f) {
    const int first_whole = row_.first_whole();
    const uint32_t whole = uint32_t(row_.end_whole() - first_whole);  // these need no second look
    if constexpr (kChunks > 0) {
      uint32_t slot = at_ % kChunks, phase = at_ / kChunks;
      int vec = int(threadIdx.x);
#pragma unroll 1
      for (int c = 0; c < chunks_; ++c, vec += kThreads) {
        ptx::mbarrier_wait(&smem_.full[slot], phase);
        T* place = reinterpret_cast<T*>(smem_.chunks + slot * kChunkBytes) + threadIdx.x * kVec;
        Vector v = Vector::load(place);
        if (uint32_t(vec - first_whole) >= whole) {
          v = row_.load_part(vec, RowVectors<T>::kLeast);
          row_.load_part(vec).store(place);
          ptx::async_proxy_fence();  // the copy engine writes here next
        }
        f(v);
        if (++slot == kChunks) slot = 0, phase ^= 1;
      }
    } else {
      pass<RowVectors<T>::kLeast>([&](const Vector& v, int) { f(v); });
    }
  }

  /// The first kUnit elements that for_each hands to this thread, and their index.
  template <int kUnit>
  __device__ Vec<T, kUnit> first_of_thread(int& first) const {
    first = (row_.begin + int(threadIdx.x)) * kVec - row_.skip;
    if constexpr (kChunks > 0) {
      if (int(threadIdx.x) < row_.count)
        return Vec<T, kUnit>::load(reinterpret_cast<const T*>(smem_.chunks + at_ % kChunks * kChunkBytes) + threadIdx.x * kVec);
    }
    const Vector v = row_.load(int(threadIdx.x));
    Vec<T, kUnit> part;
#pragma unroll
    for (uint32_t& word : part.words) word = v.words[&word - part.words];
    return part;
  }

  /// f(kUnit elements, index of the first in the row, which may be negative) for this thread's vectors or halves of them, all lanes of a
  /// warp together, with NaN for what lies outside the row or the slice.
  template <int kUnit, class F>
  __device__ void for_each(const F& f) const {
    static_assert(kUnit == kVec || 2 * kUnit == kVec);
    if constexpr (kChunks > 0) {
      uint32_t slot = at_ % kChunks;
      int first = (row_.begin + int(threadIdx.x)) * kVec - row_.skip;
#pragma unroll 1
      for (int c = 0; c < chunks_; ++c, first += kThreads * kVec) {
        const T* place = reinterpret_cast<const T*>(smem_.chunks + slot * kChunkBytes) + threadIdx.x * kVec;
#pragma unroll 1
        for (int i = 0; i < kVec; i += kUnit) f(Vec<T, kUnit>::load(place + i), first + i);
        if (++slot == kChunks) slot = 0;
      }
    } else {
      pass<RowVectors<T>::kNan>([&](const Vector& v, int first) {
        if constexpr (kUnit == kVec) {
          f(v, first);
        } else {
#pragma unroll 1  // there is one copy of f
          for (int i = 0; i < kVec; i += kUnit) {
            constexpr int kWords = int(sizeof(Vec<T, kUnit>::words) / 4);
            Vec<T, kUnit> part;
#pragma unroll
            for (int w = 0; w < kWords; ++w) part.words[w] = i ? v.words[kWords + w] : v.words[w];
            f(part, first + i);
          }
        }
      });
    }
  }

 private:
  /// Asks for a chunk of a row, by one thread. Vectors that lie partly outside the row are left to the threads they belong to.
  __device__ void copy(const RowVectors<T>& row, int chunk, uint32_t slot) const {
    const int from = max(chunk * kThreads, row.begin == 0 && row.skip > 0 ? 1 : 0);
    const int to = min(min((chunk + 1) * kThreads, row.count), (row.length + row.skip) / kVec - row.begin);
    if (to > from) {
      const uint32_t bytes = uint32_t(to - from) * 16;
      ptx::mbarrier_arrive_expect(&smem_.full[slot], bytes);
      ptx::bulk_copy(smem_.chunks + slot * kChunkBytes + (from - chunk * kThreads) * 16, row.base + int64_t(row.begin + from) * kVec, bytes,
                     &smem_.full[slot]);
    } else {
      ptx::mbarrier_arrive(&smem_.full[slot]);
    }
  }
  /// From global memory, one vector ahead.
  template <uint32_t kPadding, class F>
  __device__ void pass(const F& f) const {
    const int first_whole = row_.first_whole();
    const uint32_t whole = uint32_t(row_.end_whole() - first_whole);
    const T* at = row_.base + int64_t(threadIdx.x) * kVec;
    auto load = [&](int vec, const T* from) {
      return uint32_t(vec - first_whole) < whole ? Vector::load(from) : row_.load_part(vec, kPadding);
    };
    int vec = int(threadIdx.x), first = int(threadIdx.x) * kVec - row_.skip;
    Vector next = load(vec, at);
#pragma unroll 1
    for (int c = 0; c < chunks_; ++c) {
      const Vector v = next;
      vec += kThreads, at += kThreads * kVec;
      next = load(vec, at);
      f(v, first);
      first += kThreads * kVec;
    }
  }

  Smem& smem_;
  const int rank_, length_, first_;
  bool opened_ = false;
  uint32_t at_ = 0;  // of the row's first chunk: slot + kChunks * phase
  RowVectors<T> row_;
  int chunks_ = 0;
};

}  // namespace flashinfer::gpu
