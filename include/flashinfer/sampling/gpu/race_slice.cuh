// A block's slice of a row as a race reads it (race_kernel.cuh): once as it comes; backwards; or one column of it, which is what some warps
// of the block have read.
//
// A ring in shared memory that each thread fills and reads for itself, so that nobody waits for anybody, by pairs of vectors whose tokens
// share their random bits; or all of the slice, where looks after the first shall cost little.
#pragma once

#include <flashinfer/gpu/ptx/opaque.cuh>
#include <flashinfer/gpu/ptx/prefetch.cuh>
#include <flashinfer/gpu/row_ring.cuh>
#include <flashinfer/gpu/row_stream.cuh>
#include <flashinfer/gpu/vec.cuh>
#include <flashinfer/gpu/warp_reduce.cuh>
#include <flashinfer/sampling/gpu/race.cuh>
#include <flashinfer/sampling/sampling_config_params.hpp>

namespace flashinfer::gpu {

template <RaceConfig kConfig>
class RaceSlice {
  using T = number_t<kConfig.input>;
  /// Where most vectors race, those of floats are counted from the row's first element, as random bits are, wherever it lies: a pair has
  /// one Philox then, and not four. Rows that begin between multiples of 16 bytes took an eighth to a quarter more without (H100).
  static constexpr bool kAnywhere = sizeof(T) == 4 && !kConfig.min_p;
  /// Of vectors kTokensApart elements apart.
  static constexpr bool kPairs = kConfig.chunks == 0;
  using Row = RowVectors<T, kAnywhere>;
  static constexpr int kThreads = kConfig.threads;
  static constexpr int kTogether = kPairs ? 2 : 1, kApart = kPairs ? int(kTokensApart) / Row::kVec : 0;
  static constexpr uint32_t kPadding = kConfig.values == RowValues::logits ? Row::kLeast : 0u;  // nothing wins with it
  using Stream = RowStream<T, kThreads, RaceConfig::kStages, kAnywhere, kApart>;
  struct Streamed {  // every look begins anew
    using Smem = typename Stream::Smem;
    __device__ Streamed(const Smem&, const Row&) {}
  };

 public:
  static constexpr bool kHeld = kConfig.chunks > 0;
  static constexpr int kRowVec = Row::kVec;
  /// kVec elements are looked at together: a vector, or four of each of a pair.
  static constexpr int kVec = kPairs ? 8 : kRowVec, kColumns = kConfig.columns, kColumnThreads = kThreads / kColumns;
  static constexpr int kStep = kTogether * kRowVec;  // elements that a thread takes from its ring at a turn
  static constexpr int kSampled = kRowVec;           // by each thread
  static_assert(kColumnThreads % kWarpSize == 0 && kColumnThreads * kColumns == kThreads && (!kHeld || kColumns == 1));
  using Held = conditional_t<kHeld, RowRing<T, kThreads, max(kConfig.chunks, 1), kPadding, kAnywhere>, Streamed>;
  using Smem = typename Held::Smem;

  __device__ RaceSlice(Smem& smem, const void* row, int vocab_size, int rank)
      : smem_(smem),
        row_(static_cast<const T*>(row)),
        slice_(row_, vocab_size, kConfig.cluster, rank, max(kTogether * kApart, 1)),
        held_(smem, slice_) {}

  /// The index of the j-th of kCount elements that are looked at together, the first of which has this one.
  template <int kCount>
  __device__ static int index_of(int first, int j) {
    return kPairs && kCount > 4 ? first + j % 4 + j / 4 * int(kTokensApart) : first + j;
  }
  /// The random bits of elements that are looked at together, or of four neighbours; lower ones when they are needed.
  template <int kCount>
  struct Bits {
    RaceBits<kCount> upper, lower;
    RaceBits<8> group;  // if one Philox has them all
  };
  template <int kCount, class Noise>
  __device__ Bits<kCount> bits_of(const Noise& noise, int first) const {
    Bits<kCount> bits;
    if (is_group<kCount>()) {
      bits.group = noise.upper_of_group(first);
      bits.upper = of_group<kCount>(bits.group, first);
    } else if (!kPairs && slice_.skip == 0) {
#pragma unroll
      for (int j = 0; j < kCount; j += 4) {
        const RaceBits<4> four = of_group<4>(noise.upper_of_group(first + j), first + j);
        bits.upper.words[j / 2] = four.words[0], bits.upper.words[j / 2 + 1] = four.words[1];
      }
    } else {
      bits.upper = of_groups<kCount>(noise.sparse(), first, false);
    }
    return bits;
  }
  template <int kCount, class Noise>
  __device__ void need_lower(const Noise& noise, int first, Bits<kCount>& bits) const {
    bits.lower =
        is_group<kCount>() ? of_group<kCount>(noise.lower_of_group(bits.group), first) : of_groups<kCount>(noise.sparse(), first, true);
  }
  /// The index of the j-th element that a thread takes from its ring at its n-th turn.
  __device__ int index_of(int thread, int n, int j) const {
    const int first = slice_.index_of(vec_of(n * kThreads + thread));
    return kPairs ? index_of<kVec>(first + j / kVec * 4, j % kVec) : first + j;
  }
  /// Of each thread, or one more.
  __device__ int elements() const { return turns(ptx::opaque(0)) * kStep; }  // once for all looks it would spill
  __device__ int length() const { return slice_.length; }
  /// The rank of an element of the row.
  __device__ uint64_t rank_of(uint32_t token) const { return order_rank(order_key(load_float(row_ + token)), token); }

  /// Whether this block has an element of this index, and that is its value.
  __device__ bool has(int index, float value) const {
    return uint32_t(index) < uint32_t(slice_.length) && slice_.holds(index) && load_float(row_ + index) == value;
  }

  /// A vector of each thread, those of warps spread over the whole row, with NaN for what lies outside. Returns how many times as many the
  /// row has. (Spread by threads they take 3 us of 128 rows more, H100.)
  __device__ float sample(float (&x)[kSampled]) const {
    const RowVectors<T> whole(row_, slice_.length, 1, 0);
    typename Row::Vector held[1];
    whole.template load_spread<kThreads>(held);
    held[0].to_float(x);
    return float(whole.count) / kThreads;
  }

  /// The first look in two parts: what it begins with is on its way while something else is done.
  __device__ void begin() {
    if constexpr (kHeld) {
      held_.start();
    } else {
      start(ptx::opaque(int(threadIdx.x)), kThreads);
    }
  }
  template <class F>
  __device__ void for_each_begun(const F& f) {
    if constexpr (kHeld) {
      for_each(f);
    } else {
      for_each_started<kVec, kTogether>(ptx::opaque(int(threadIdx.x)), kThreads, turns_of_warp(), f);
    }
  }
  /// f(kVec elements, index of the first, which may be negative) for this thread's elements, all lanes of a warp together, with -inf, or 0
  /// for a probability, for what lies outside the row or the slice.
  template <class F>
  __device__ void for_each(const F& f) {
    for_each<kVec, kTogether>(int(threadIdx.x), kThreads, turns_of_warp(), f);
  }
  /// f(element) for those of this thread that for_each() has, and perhaps padding. In few instructions.
  template <class F>
  __device__ void for_each_slowly(const F& f) {
    if constexpr (kHeld) {
      for_each([&](const float(&x)[kVec], int) {
#pragma unroll
        for (float y : x) f(y);
      });
    } else {
      const int thread = ptx::opaque(int(threadIdx.x)), count = turns(thread) * kStep;
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        const int index = index_of(thread, i / kStep, i % kStep);
        if (uint32_t(index) < uint32_t(slice_.length) && slice_.holds(index)) f(load_float(row_ + index));
      }
    }
  }
  /// f(kRowVec neighbours, index of the first). What was read last may be in L2 still.
  template <class F>
  __device__ void for_each_backwards(const F& f) {
    const int turns = turns_of_warp();
    for_each<kRowVec, 1>((turns - 1) * kThreads + int(threadIdx.x), -kThreads, turns, f);
  }
  /// The same of kCount elements, four neighbours or as many as are looked at together, by all threads of the block, for this one's share
  /// of a column.
  template <int kCount, class F>
  __device__ void for_each_of_column(int column, const F& f) {
    const int part = int(threadIdx.x) / kColumnThreads, place = column * kColumnThreads + int(threadIdx.x) % kColumnThreads;
    for_each<kCount, (kCount > 4 ? kTogether : 1)>(part * kThreads + place, kColumns * kThreads, ceil_div(turns(0), kColumns), f);
  }
  /// Into L2: the column that an element of the row belongs to, if this block has it.
  __device__ void prefetch_column_of(uint32_t token) const {
    if (kHeld || !slice_.holds(int(token))) return;
    constexpr int kLine = 8, kVecs = kTogether * kColumnThreads, kLines = kVecs / kLine;  // vectors, of 16 bytes
    const int column = ((int(token) + slice_.skip) / kRowVec - slice_.begin) % (kTogether * kThreads) / kVecs;
    for (int i = ptx::opaque(int(threadIdx.x)); i < turns(0) * kLines; i += kThreads) {
      const int vec = i / kLines * kTogether * kThreads + column * kVecs + i % kLines * kLine;
      if (slice_.is_whole(vec)) ptx::prefetch_l2(slice_.base + int64_t(slice_.begin + vec) * kRowVec);
    }
  }

 private:
  Smem& smem_;
  const T* const row_;
  const Row slice_;
  Held held_;

  /// Whether elements that are looked at together belong to one group of tokens.
  template <int kCount>
  __device__ bool is_group() const {
    return (kPairs || kCount == 4) && (kAnywhere || slice_.skip == 0);
  }
  template <int kCount>
  __device__ static RaceBits<kCount> of_group(const RaceBits<8>& group, int first) {
    if constexpr (kCount == 8) {
      return group;
    } else {
      const bool apart = first & int(kTokensApart);
      return {{apart ? group.words[2] : group.words[0], apart ? group.words[3] : group.words[1]}};
    }
  }
  template <int kCount>
  __device__ static RaceBits<kCount> of_groups(const RaceNoise<false>& noise, int first, bool lower) {
    RaceBits<kCount> bits;
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) {
      const RaceBits<4> four = noise.four_of(noise, first + j * (kPairs ? int(kTokensApart) : 4), lower);
      bits.words[2 * j] = four.words[0], bits.words[2 * j + 1] = four.words[1];
    }
    return bits;
  }
  /// Vectors, or pairs of them, are counted by `place`: this is the first one's. A warp's pairs lie together.
  __device__ static int vec_of(int place) { return kPairs ? place + place / kApart * kApart : place; }
  /// Places of the slice from this one on, of every kThreads-th.
  __device__ int turns(int place) const {
    const int count = slice_.count, places = kPairs ? count / (2 * kApart) * kApart + min(count % (2 * kApart), kApart) : count;
    return places > place ? (places - place - 1) / kThreads + 1 : 0;
  }
  __device__ int turns_of_warp() const { return turns(ptx::opaque(int(threadIdx.x)) / kWarpSize * kWarpSize); }

  __device__ void start(int place, int step) const { Stream::start(smem_, slice_, vec_of(place), kTogether * step); }
  /// kCount elements of kAtOnce vectors.
  template <int kCount, int kAtOnce, class F>
  __device__ void for_each(int place, int step, int count, const F& f) {
    if constexpr (kHeld) {
      held_.template for_each<kCount>([](int) { return true; }, [&](const float(&x)[kCount], int index, int) { f(x, index); });
    } else {
      place = ptx::opaque(place);  // what follows from it would be computed before all passes, and spill
      start(place, step);
      for_each_started<kCount, kAtOnce>(place, step, count, f);
    }
  }
  template <int kCount, int kAtOnce, class F>
  __device__ void for_each_started(int place, int step, int count, const F& f) const {
    constexpr int kUnit = kCount / kAtOnce;
    const auto hand_out = [&](const Vec<T, kUnit>(&v)[kAtOnce], int index) {
      float x[kCount];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        float y[kUnit];
        v[i].to_float(y);
#pragma unroll
        for (int j = 0; j < kUnit; ++j) x[i * kUnit + j] = y[j];
      }
      f(x, index);
    };
    Stream::template for_each_started<kAtOnce, kUnit>(smem_, slice_, vec_of(place), kTogether * step, count, kPadding, hand_out);
  }
};

}  // namespace flashinfer::gpu
