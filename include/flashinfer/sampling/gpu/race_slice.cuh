// A block's slice of a row as a race reads it (race_kernel.cuh): once as it comes; backwards; or one column of it, which is what some warps
// of the block have read.
//
// A ring in shared memory that each thread fills and reads for itself, so that nobody waits for anybody; or all of the slice, where looks
// after the first shall cost little.
#pragma once

#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/ptx/prefetch.cuh>
#include <flashinfer/gpu/row_ring.cuh>
#include <flashinfer/gpu/row_stream.cuh>
#include <flashinfer/gpu/vec.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer::gpu {

template <RaceConfig kConfig>
class RaceSlice {
  using T = number_t<kConfig.input>;
  /// Where most vectors race, those of floats are counted from the row's first element, as random bits are, wherever it lies: a vector has
  /// one Philox then, and not two. Rows that begin between multiples of 16 bytes took an eighth to a quarter more without (H100).
  static constexpr bool kAnywhere = sizeof(T) == 4 && !kConfig.min_p;
  using Row = RowVectors<T, kAnywhere>;
  static constexpr int kThreads = kConfig.threads;
  static constexpr uint32_t kPadding = kConfig.values == RowValues::logits ? Row::kLeast : 0u;  // nothing wins with it
  using Stream = RowStream<T, kThreads, RaceConfig::kStages, kAnywhere>;
  struct Streamed {  // every look begins anew
    using Smem = typename Stream::Smem;
    __device__ Streamed(const Smem&, const Row&) {}
  };

 public:
  static constexpr bool kHeld = kConfig.chunks > 0;
  static constexpr int kVec = Row::kVec, kColumns = kConfig.columns, kColumnThreads = kThreads / kColumns;
  static_assert(kColumnThreads % kWarpSize == 0 && kColumnThreads * kColumns == kThreads && (!kHeld || kColumns == 1));
  using Held = conditional_t<kHeld, RowRing<T, kThreads, max(kConfig.chunks, 1), kPadding, kAnywhere>, Streamed>;
  using Smem = typename Held::Smem;

  __device__ RaceSlice(Smem& smem, const void* row, int vocab_size, int rank)
      : smem_(smem), row_(static_cast<const T*>(row)), slice_(row_, vocab_size, kConfig.cluster, rank), held_(smem, slice_) {}

  /// Random bits of this thread's elements, the first of which has this index.
  template <class Noise>
  __device__ static void noise_of(const Noise& noise, int first, uint32_t (&bits)[kVec]) {
    noise.template bits_of<kVec, !kAnywhere>(first, bits);
  }
  __device__ const Row& vectors() const { return slice_; }
  /// Whether an element of a vector lies in the slice.
  __device__ bool has(int index) const { return index >= 0 && index < slice_.length; }
  /// Vectors of each thread.
  __device__ int chunks() const { return ceil_div(slice_.count, kThreads); }
  /// The rank of an element of the row.
  __device__ uint64_t rank_of(uint32_t token) const { return order_rank(order_key(load_float(row_ + token)), token); }

  /// A vector of each thread, those of warps spread over the whole row, with NaN for what lies outside. Returns how many times as many the
  /// row has. (Spread by threads they take 3 us of 128 rows more, H100.)
  __device__ float sample(float (&x)[kVec]) const {
    constexpr int kWarps = kThreads / kWarpSize;
    const RowVectors<T> whole(row_, slice_.length, 1, 0);
    const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
    whole.load(whole.count / kWarps * warp + lane).to_float(x);
    return float(whole.count) / kThreads;
  }

  /// The first look in two parts: what it begins with is on its way while something else is done.
  __device__ void begin() const {
    if constexpr (!kHeld) Stream::start(smem_, slice_, ptx::opaque(int(threadIdx.x)), kThreads);
  }
  template <class F>
  __device__ void for_each_begun(const F& f) {
    if constexpr (kHeld) {
      for_each(f);
    } else {
      for_each_started(ptx::opaque(int(threadIdx.x)), kThreads, chunks(), f);
    }
  }
  /// f(elements, index of the first, which may be negative) for this thread's vectors, all lanes of a warp together, with -inf, or 0 for a
  /// probability, for what lies outside the row or the slice.
  template <class F>
  __device__ void for_each(const F& f) {
    for_each(int(threadIdx.x), kThreads, chunks(), f);
  }
  /// What was read last may be in L2 still.
  template <class F>
  __device__ void for_each_backwards(const F& f) {
    for_each((chunks() - 1) * kThreads + int(threadIdx.x), -kThreads, chunks(), f);
  }
  /// By all threads of the block, for this one's share of a column.
  template <class F>
  __device__ void for_each_of_column(int column, const F& f) {
    const int part = int(threadIdx.x) / kColumnThreads, place = column * kColumnThreads + int(threadIdx.x) % kColumnThreads;
    for_each(part * kThreads + place, kColumns * kThreads, ceil_div(chunks(), kColumns), f);
  }
  /// Into L2: the column that an element of the row belongs to, if this block has it.
  __device__ void prefetch_column_of(uint32_t token) const {
    if (kHeld || !slice_.holds(int(token))) return;
    constexpr int kLine = 8, kLines = kColumnThreads / kLine;  // vectors, of 16 bytes
    const int column = ((int(token) + slice_.skip) / kVec - slice_.begin) % kThreads / kColumnThreads;
    for (int i = ptx::opaque(int(threadIdx.x)); i < chunks() * kLines; i += kThreads) {
      const int vec = i / kLines * kThreads + column * kColumnThreads + i % kLines * kLine;
      if (slice_.is_whole(vec)) ptx::prefetch_l2(slice_.base + int64_t(slice_.begin + vec) * kVec);
    }
  }

 private:
  Smem& smem_;
  const T* const row_;
  const Row slice_;
  Held held_;

  template <class F>
  __device__ void for_each(int start, int step, int count, const F& f) {
    if constexpr (kHeld) {
      held_.template for_each<kVec>([](int) { return true; }, [&](const float(&x)[kVec], int index, int) { f(x, index); });
    } else {
      start = ptx::opaque(start);  // what follows from it would be computed before all passes, and spill
      Stream::start(smem_, slice_, start, step);
      for_each_started(start, step, count, f);
    }
  }
  template <class F>
  __device__ void for_each_started(int start, int step, int count, const F& f) const {
    Stream::for_each_started(smem_, slice_, start, step, count, kPadding, [&](const typename Stream::Vector& v, int index) {
      float x[kVec];
      v.to_float(x);
      f(x, index);
    });
  }
};

}  // namespace flashinfer::gpu
