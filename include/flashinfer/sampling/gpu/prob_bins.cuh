// Where in a row of probabilities a share of its mass is reached, nearly: sums of probabilities with the same upper bits, added up as the
// row is read, before anybody knows its maximum.
//
// A bin is a hundred-and-twenty-eighth of an octave, over the 32 octaves below 2. It adds up the upper bits of the mantissas, so its mass
// is known far better than its width: the answer is one bin, or two. Where a bin may have thousands of elements, the four bins that a
// sample says have the boundary, the window, are summed in 2048 finer ones beside. Where blocks share a row, another look, most often at
// what shared memory holds, divides the answer.
#pragma once

#include <flashinfer/core/math.hpp>
#include <flashinfer/core/number.hpp>
#include <flashinfer/gpu/ptx/math.cuh>
#include <flashinfer/gpu/rank_select.cuh>
#include <flashinfer/sampling/gpu/octaves.cuh>
#include <flashinfer/sampling/sampling_params.hpp>

namespace flashinfer::gpu {

/// kFine: there may be a window.
template <int kThreads, class Group, int kCluster, bool kFine = false>
class ProbBins {
  static constexpr int kShift = 16, kPerOctave = 1 << (23 - kShift), kOctaves = 32, kBins = kOctaves * kPerOctave;
  static constexpr int kFirst = (128 - kOctaves) * kPerOctave;  // upper bits of the least probability that has a bin
  static constexpr int kMostBits = 16;
  static constexpr int kOwn = kBins / kThreads, kWarps = kThreads / kWarpSize;
  static constexpr int kWindow = 4, kWindowBits = kShift + 2, kFineShift = 7, kFineBins = 1 << (kWindowBits - kFineShift);
  static constexpr int kWithinShift = kShift - 11;  // two bins in all of them
  static_assert(kBins << kWithinShift == 2 << kShift);
  static_assert(kOwn * kThreads == kBins && kOwn % 4 == 0 && kFineBins % kThreads == 0 && (!kFine || kCluster == 1));

 public:
  static constexpr int kPoint = kOctaves + kMostBits - 2;  // sums are in units of 2^-kPoint

  struct Fine {
    uint32_t sums[kFineBins];
    uint64_t above;
    int first, last;
  };
  struct Nothing {};
  struct Told {
    uint64_t above;
    int elements;  // about
  };
  struct Smem {
    alignas(16) uint32_t sums[kBins + kWarpSize];          // and what each lane adds to for what has no bin
    uint32_t octaves[kOctaves], told[kCluster][kOctaves];  // sums, of this block and as those of a cluster tell each other
    uint64_t partial[kWarps];
    int first, last;
    uint32_t tied;  // bits of a value that half of what a warp has added at once were
    conditional_t<kFine, Fine, Nothing> window;
    conditional_t<(kCluster > 1), Told, Nothing> of_first;
  };
  static constexpr uint32_t kNoWindow = 0xc0000000u;  // of negative ones
  /// What an element is added to: its bin, and the window if there is one; its bin alone; what divides crowded bins.
  enum Into { kAll, kCoarse, kCrowded };
  /// Of a vocabulary; for the share top_p of the mass. No sum overflows, be it of all elements. `window`: bits of its least element.
  __device__ ProbBins(Smem& smem, int32_t vocab_size, float top_p, uint32_t window = kNoWindow) : smem_(smem), window_(window) {
    bits_ = min(__clzll(int64_t(max(vocab_size - 1, 1))) - 32, kMostBits);
    // What is less than this share of 1 - top_p is not where the share is reached, if the row sums to one. (NaN is a top_p like 0.)
    const float least = 0.5f * (top_p > 0 ? 1 - top_p : 1.0f) / float(vocab_size);
    least_ = max(bit_cast<uint32_t>(fmaxf(least, 0.0f)) >> kShift, uint32_t(kFirst)) << kShift;
  }

  /// The threads meet before the first add().
  static __device__ void clear(Smem& smem) {
#pragma unroll 1
    for (int bin = int(threadIdx.x); bin < kBins; bin += kThreads) smem.sums[bin] = 0;
    if (threadIdx.x == 0) smem.first = smem.last = -1, smem.tied = 0;
  }
  static __device__ void clear_window(Smem& smem) {
    if constexpr (kFine)
#pragma unroll 1
      for (int bin = int(threadIdx.x); bin < kFineBins; bin += kThreads) smem.window.sums[bin] = 0;
  }
  /// By whole warps. Where the elements of some vector are equal, so may be many of the warp, which would queue at one bin: one lane adds
  /// them.
  template <Into kInto = kAll, int kCount>
  __device__ void add(const float (&x)[kCount]) const {
    bool equal = has_bin(x[0]);
    float y[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) equal &= x[j] == x[0], y[j] = x[j];
    if (const uint32_t lanes = __ballot_sync(0xffffffffu, equal)) {
      const float tied = __shfl_sync(0xffffffffu, x[0], __ffs(int(lanes)) - 1);
      int count = 0;
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        count += __popc(__ballot_sync(0xffffffffu, x[j] == tied));
        if (x[j] == tied) y[j] = 0;
      }
      if (threadIdx.x % kWarpSize == 0) {
        add<kInto>(tied, uint32_t(count));
        if (2 * count >= kCount * kWarpSize) smem_.tied = bit_cast<uint32_t>(tied);  // any of such
      }
      if (count == kCount * kWarpSize) return;
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) add<kInto>(y[j], 1);
  }

  /// A sum of probabilities as find() wants it.
  static __device__ float value(uint64_t sum) { return float(sum) * (1.0f / float(uint64_t(1) << kPoint)); }
  static __device__ uint64_t fixed(float sum) { return uint64_t(fminf(sum, 1024.0f) * float(uint64_t(1) << kPoint)); }

  /// What the octaves of this block weigh, to every block of a cluster, whose barrier follows. The threads meet.
  __device__ void tell() const {
    if constexpr (kCluster > 1) {
      __syncthreads();  // the sums are complete
      const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
#pragma unroll
      for (int octave = warp; octave < kOctaves; octave += kWarps) {
        static_assert(kPerOctave == 4 * kWarpSize && kOctaves == kWarpSize);
        const uint4 four = *reinterpret_cast<const uint4*>(&smem_.sums[octave * kPerOctave + lane * 4]);
        const uint32_t sum = warp_sum(four.x + four.y + four.z + four.w);
        if (lane == 0) smem_.octaves[octave] = sum;
      }
      __syncthreads();
      // All octaves to a block at once: one by one, the barrier takes 1000 clocks more.
      for (int to = warp; to < kCluster; to += kWarps) Group::of(smem_.told[Group::rank()], to)[lane] = smem_.octaves[lane];
    }
  }

  /// order_key of a value that many neighbours have, or of zero. When the threads have met.
  __device__ uint32_t tied() const { return order_key(bit_cast<float>(smem_.tied)); }

  /// Keys of the least and the largest value with which the mass of what is not smaller may reach top_p of `total`. Right but for what the
  /// caller sees from exact masses: a row that does not sum to one, roundings of `total`. In every thread, which meet; after tell() in
  /// every block, which meet too: of the others they read the octave in question, or two.
  struct Keys {
    uint32_t least, most;
  };
  __device__ Keys find(float top_p, uint64_t total) const {
    if constexpr (kCluster > 1) {
      return find_told<false>(smem_, bits_, least_, 0, top_p, total);
    } else {
      return find(smem_, bits_, least_, window_, top_p, total);
    }
  }
  /// Of a cluster, after find(): whether the bins in question have more than this many elements and can be divided, by another look at the
  /// row.
  __device__ bool is_crowded(int elements) const {
    const int first = smem_.first, last = smem_.last;
    const bool whole = first % kPerOctave > 0 && first < kBins - 1 && (last == first || last == first - 1);
    return whole && smem_.of_first.elements > elements;
  }
  /// What add<kCrowded>() adds up then: what lies in these two bins. The blocks meet: none are read any more, and those of this block are
  /// empty.
  __device__ ProbBins within() const {
    ProbBins bins = *this;
    bins.window_ = uint32_t(kFirst + smem_.first - 1) << kShift, bins.above_ = smem_.of_first.above;
    Group::leave();
    clear(smem_);
    __syncthreads();
    return bins;
  }
  /// find() of these.
  __device__ Keys find_within(float top_p, uint64_t total) const { return find_told<true>(smem_, bits_, window_, above_, top_p, total); }
  /// Around the boundary of a sample, of whose bins reach() has told: no octave ends within a window. The threads meet.
  __device__ uint32_t window(float top_p, uint64_t total) const {
    __syncthreads();  // what reach() has found has been read
    if (threadIdx.x == 0) smem_.first = smem_.last = -1;
    const Keys keys = find(top_p, total);
    const int bin = int(bit_cast<uint32_t>(value_of_order_key<float>(keys.least)) >> kShift) - kFirst;
    if (bin < 0 || bin >= kBins) return kNoWindow;
    const int octave = bin / kPerOctave * kPerOctave;
    return uint32_t(kFirst + max(min(bin - 1, octave + kPerOctave - kWindow), octave)) << kShift;
  }

 private:
  /// The mass that is surely reached where top_p is, and what surely reaches it.
  struct Goals {
    uint64_t early, late;
  };
  /// A thread's bins, the first one first.
  static __device__ void load_own(const Smem& smem, int top, uint32_t (&sums)[kOwn]) {
#pragma unroll
    for (int i = 0; i < kOwn; i += 4) {
      const uint4 four = *reinterpret_cast<const uint4*>(&smem.sums[top - i - 3]);  // one by one, threads would meet at banks
      sums[i] = four.w, sums[i + 1] = four.z, sums[i + 2] = four.y, sums[i + 3] = four.x;
    }
  }
  /// One function for all the calls of a kernel: they come once a row, and take long to compile.
  static __device__ __noinline__ Keys find(Smem& smem, int bits, uint32_t least, uint32_t window_bits, float top_p, uint64_t total) {
    const auto [early, late] = goals(bits, top_p, total);
    const int window = window_bits == kNoWindow ? -1 : int(window_bits >> kShift) - kFirst;
    const int top = kBins - 1 - int(threadIdx.x) * kOwn;
    uint32_t sums[kOwn];
    load_own(smem, top, sums);
    uint64_t own = mass_of_own(sums, bits, top), all, above = block_sum_before<kThreads>(own, all, smem.partial);
    // One thread or two go on, and the warps of others do not.
    if ((above < late && above + own >= early) || (kFine && uint32_t(top - (window + kWindow - 1)) < uint32_t(kOwn))) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const uint64_t with = above + mass(sums[i], bits, top);
        if (above < early && with >= early) smem.first = top - i;
        if (above < late && with >= late) smem.last = top - i;
        if constexpr (kFine)
          if (top - i == window + kWindow - 1) smem.window.above = above;
        above = with;
      }
    }
    __syncthreads();
    if constexpr (kFine)
      if (window >= 0 && smem.last >= window && smem.first < window + kWindow) return find_fine(smem, bits, least, window, early, late);
    return keys(smem, least);
  }
  /// The boundary lies in the window.
  static __device__ Keys find_fine(Smem& smem, int bits, uint32_t least, int window, uint64_t early, uint64_t late) {
    constexpr int kOwnFine = kFineBins / kThreads;
    Fine& fine = smem.window;
    const int top = kFineBins - 1 - int(threadIdx.x) * kOwnFine;
    uint64_t sum = 0, all;
#pragma unroll
    for (int i = 0; i < kOwnFine; ++i) sum += mass(fine.sums[top - i], bits, window);
    if (threadIdx.x == 0) fine.first = fine.last = -1;
    uint64_t above = fine.above + block_sum_before<kThreads>(sum, all, smem.partial);
#pragma unroll
    for (int i = 0; i < kOwnFine; ++i) {
      const uint64_t with = above + mass(fine.sums[top - i], bits, window);
      if (above < early && with >= early) fine.first = top - i;
      if (above < late && with >= late) fine.last = top - i;
      above = with;
    }
    __syncthreads();
    if (fine.first < 0 || fine.last < 0) return keys(smem, least);  // what is above the last bin is in its sum, and not in the window's
    const auto key = [&](int bin) {
      return order_key(bit_cast<float>((uint32_t(kFirst + window) << kShift) + (uint32_t(bin) << kFineShift)));
    };
    return {key(fine.last), key(fine.first + 1) - 1};
  }
  /// Of bins from `least` on, above which there is so much. Within others they all belong to one octave, and those that are told are parts
  /// of it.
  template <bool kWithin>
  static __device__ __noinline__ Keys find_told(Smem& smem, int bits, uint32_t least, uint64_t already, float top_p, uint64_t total) {
    auto [early, late] = goals(bits, top_p, total);
    early -= already, late -= already;
    const int within = int(least >> 23) - kFirst / kPerOctave;
    const auto weigh = [&](uint32_t sum, int octave) { return mass(sum, bits, (kWithin ? within : octave) * kPerOctave); };
    const int octave = kOctaves - 1 - int(threadIdx.x) % kWarpSize;
    uint32_t sum = 0;
#pragma unroll
    for (int r = 0; r < kCluster; ++r) sum += smem.told[r][octave];
    const uint64_t of_octave = weigh(sum, octave);
    const OctaveSums sums(of_octave, kOctaves);
    const OctaveCrossing high = sums.crossing(early - 1), low = sums.crossing(late - 1);
#pragma unroll 1
    for (int in = high.octave; in >= 0; in = low.octave) {
      const int place = kPerOctave - 1 - int(threadIdx.x), bin = in * kPerOctave + place;
      sum = 0;
      if (place >= 0) {
#pragma unroll  // all on their way at once
        for (int r = 0; r < kCluster; ++r) sum += *Group::of(&smem.sums[bin], r);
      }
      const uint64_t own = weigh(sum, in);
      uint64_t all;
      const uint64_t before = block_sum_before<kThreads>(own, all, smem.partial);
      if (high.is_in(in, before, own)) {
        smem.first = bin;
        smem.of_first = {high.above + before, int(float(sum) * ptx::rcp(float(mass_of_one(bits, bin))))};
      }
      if (low.is_in(in, before, own)) smem.last = bin;
      __syncthreads();
      if (in == low.octave) break;
    }
    if constexpr (!kWithin) return keys(smem, least);
    const auto key = [&](int bin) { return order_key(bit_cast<float>(least + (uint32_t(bin) << kWithinShift))); };
    return {key(max(smem.last, 0)), key(smem.first < 0 ? kBins : smem.first + 1) - 1};
  }
  static __device__ Goals goals(int bits, float top_p, uint64_t total) {
    // In floats, whose roundings are less than `rounding`: the steps of needed_mass(), in doubles, all threads would wait for.
    const uint64_t share = top_p > 0 ? uint64_t(fminf(top_p, 1.0f) * float(total)) : 0;
    const uint64_t goal = max(min(share, total), uint64_t(1)), rounding = goal >> 16;
    return {goal - (goal >> (bits - 1)) - rounding, goal + rounding};
  }
  static __device__ Keys keys(const Smem& smem, uint32_t least) {
    const int first = smem.first, last = smem.last;
    // Above the last bin there may be anything; below the least there is no bin.
    const uint32_t most = first < 0            ? order_key(bit_cast<float>(least)) - 1
                          : first == kBins - 1 ? order_key(kInfinity)
                                               : key_of(first + 1) - 1;
    return {last < 0 ? order_key(0.0f) + 1 : key_of(last), most};
  }

 public:
  /// The largest key that bins tell apart of which and above which there are at least this mass, as find() wants it, and about this many
  /// elements; the least of all that have bins, if there are not. And how many there are: as many or a hundredth more, of less than 2^20.
  /// In every thread, which meet.
  struct Floor {
    uint32_t key;
    int count;
  };
  __device__ Floor reach(uint64_t mass_wanted, int count_wanted) const {
    constexpr uint64_t kCounts = (1 << 20) - 1;  // one sum for both
    const int top = kBins - 1 - int(threadIdx.x) * kOwn;
    uint32_t sums[kOwn];
    load_own(smem_, top, sums);
    const auto both = [](uint64_t mass, uint32_t count) { return (mass & ~kCounts) | count; };
    uint32_t counts[kOwn], count = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) count += counts[i] = uint32_t(float(sums[i]) * ptx::rcp(float(mass_of_one(bits_, top - i))));
    const uint64_t own = both(mass_of_own(sums, bits_, top), count);
    uint64_t all, above = block_sum_before<kThreads>(own, all, smem_.partial);
    const auto reaches = [&](uint64_t reached) {
      return (reached & ~kCounts) >= (mass_wanted & ~kCounts) && int(reached & kCounts) >= count_wanted;
    };
    if (!reaches(above) && reaches(above + own)) {  // one thread
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const bool before = reaches(above);
        above += both(mass(sums[i], bits_, top), counts[i]);
        // Of the masses more is cut off, bin by bin, than of all together: if it is none before, it is the last.
        if (!before && (i == kOwn - 1 || reaches(above))) smem_.first = int(above & kCounts), smem_.last = top - i;
      }
    }
    __syncthreads();
    return smem_.last < 0 ? Floor{order_key(bit_cast<float>(least_)), int(all & kCounts)} : Floor{key_of(smem_.last), smem_.first};
  }

  /// An element, so often, to bins and window.
  template <Into kInto = kAll>
  __device__ void add(float x, uint32_t count) const {
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint32_t mass = count * (((bits & 0x7fffffu) | 0x800000u) >> (24 - bits_));
    if constexpr (kInto == kCrowded) {
      const uint32_t at = (bits - window_) >> kWithinShift;
      if (at < kBins) atomicAdd(&smem_.sums[at], mass);
      return;
    }
    // Without a branch: most warps have some that have none.
    atomicAdd(&smem_.sums[has_bin(x) ? min(int(bits >> kShift) - kFirst, kBins - 1) : kBins + int(threadIdx.x % kWarpSize)], mass);
    if constexpr (kFine && kInto == kAll) {
      const uint32_t at = bits - window_;
      if (at < 1u << kWindowBits) atomicAdd(&smem_.window.sums[at >> kFineShift], mass);
    }
  }

 private:
  Smem& smem_;
  uint32_t window_;     // bits of its least element, or of what lies within crowded bins
  int bits_;            // of a mantissa, the first one included, that are added up
  uint32_t least_;      // bits of the least probability that is
  uint64_t above_ = 0;  // the mass above crowded bins

  /// Bits of positive numbers have their order; those of negative ones and NaN's stand above.
  __device__ bool has_bin(float x) const { return bit_cast<uint32_t>(x) - least_ <= bit_cast<uint32_t>(kInfinity) - least_; }
  static __device__ uint64_t mass(uint32_t sum, int bits, int bin) {
    return uint64_t(sum) << (kPoint - kOctaves + 2 - bits + bin / kPerOctave);
  }
  /// Of a thread's bins, which lie in one octave. No sum overflows, be it of all elements.
  static __device__ uint64_t mass_of_own(const uint32_t (&sums)[kOwn], int bits, int top) {
    static_assert(kPerOctave % kOwn == 0);
    uint32_t sum = 0;
#pragma unroll
    for (const uint32_t of_bin : sums) sum += of_bin;
    return mass(sum, bits, top);
  }
  /// What an element of a bin adds at least.
  static __device__ int mass_of_one(int bits, int bin) { return (kPerOctave + bin % kPerOctave) << kShift >> (24 - bits); }
  static __device__ uint32_t key_of(int bin) { return order_key(bit_cast<float>(uint32_t(kFirst + bin) << kShift)); }
};

}  // namespace flashinfer::gpu
