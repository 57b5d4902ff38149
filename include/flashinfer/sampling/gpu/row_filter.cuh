// Which elements of a row the filters of sampling_params.hpp keep: the prefix of the row's order, found exactly, as the rank of its last
// element. Every block of the group finds the same prefix.
//
// 1. A guess. Elements within 6 octaves of the maximum, and one in 8 of the others, are counted in bins of an eighth of an octave: a few
//    thousand atomics of shared memory instead of one for every element. In the same pass, if top_p is of the row: the row's mass.
// 2. Short prefixes (a hundred elements): whatever may belong to it is listed in every block and the filters are applied to the list.
// 3. Long ones: the elements between two bins that the boundary lies between are counted in 256 bins, with their masses, and those in the
//    bin that holds the boundary again, until there are few enough of them for a list. What lies above is added up on the way.
// A guess that was wrong, which sums show, costs a step of 3, no more. Ranks contain the index, so ties are no special case.
#pragma once

#include <flashinfer/sampling/gpu/row_passes.cuh>

namespace flashinfer::gpu {

/// The filters of one row that are on.
struct RowFilters {
  int32_t top_k = 0;  // 0: off
  float top_p = 1;    // 1: off
  bool joint = false;

  __device__ RowFilters(int32_t k, float p, bool joint, int32_t vocab_size, bool greedy = false) : joint(joint) {
    if (k > 0 && k < vocab_size) top_k = k;
    if (!(p > 0)) greedy = true;
    if (greedy) {
      top_k = 1;
    } else if (p < 1) {
      top_p = p;
    }
  }
  __device__ bool by_count() const { return top_k > 0; }
  __device__ bool by_mass() const { return top_p < 1; }
};

template <RowValues kValues, class Reader, class Group, int kThreads, int kCluster>
class RowFilter : public RowPasses<kValues, Reader, Group> {
  using Passes = RowPasses<kValues, Reader, Group>;

 public:
  static constexpr int kBins = 256, kListed = 128, kMost = 256;  // entries of a block, of all blocks
  using Passes::for_each, Passes::for_each_hit, Passes::group, Passes::kVec, Passes::mass_from, Passes::reaches;
  using typename Passes::Weight;
  static_assert(kThreads >= kBins && kThreads >= kMost);

  /// How far down its bins a prefix reaches.
  struct Found {
    uint64_t before_count, before_mass, count, mass;  // in bins above, and in the bin
    int bin;
  };
  struct Smem {
    uint32_t count[2][kBins], mass_low[2][kBins], mass_high[2][kBins];
    uint64_t list[kCluster][kListed];
    uint64_t rank[kMost], mass[kMost];
    uint64_t scan[2][8];
    Found found[2];
    RowPrefix prefix;
    uint64_t whole, top, target;  // of keep(): every thread writes the same, and reads what it wrote
    uint64_t mass_of_k, mass_of_list;
    float sums[2][8];
    int guess[2];
    uint32_t listed, lengths[kCluster];
  };

  __device__ RowFilter(Smem& smem, const Reader& reader, const Group& group) : Passes(reader, group), smem_(smem) {}

  /// What `filters` keep of the elements of rank `floor` and above. `total` is the row's mass, 0 where nobody knows it yet. The prefix's
  /// mass is computed where the filters need it, or `want_mass`.
  __device__ RowPrefix keep(const Weight& weight, const RowFilters& filters, uint64_t floor, uint64_t& total, bool want_mass) {
    turn_ = length_ = 0, high_ = 0, lists_prefix_ = false;  // the blocks have met since the last row's histograms were read
    if (!filters.by_count() && !filters.by_mass()) {
      if (want_mass && floor == kLowestRank && total) return {floor, total};
      const uint64_t mass = want_mass ? mass_from(weight, floor) : 0;
      if (floor == kLowestRank) total = mass;
      return {floor, mass};
    }
    const bool of_row = filters.by_mass() && (filters.joint || !filters.by_count());
    // What is seldom asked for waits in shared memory: there are no registers for it while passes run.
    volatile uint64_t &whole = smem_.whole, &top = smem_.top, &target = smem_.target;  // whole: what top_p is a share of, if of_row
    uint64_t low = guess(weight, filters, floor, of_row);
    if (of_row && (filters.joint || floor == kLowestRank)) total = whole;

    // The boundary looked for: where elements (top_k, first) or mass (top_p) reach the target. It is likely to have a rank in [low, high],
    // and has one in [floor, top].
    bool by_mass = !filters.by_count();
    target = by_mass ? needed_mass(filters.top_p, whole) : uint64_t(filters.top_k);
    uint64_t high = high_;
    top = ~0ull;
    bool whole_prefix = length_ <= kShort, few = whole_prefix;
    RowPrefix prefix;
    for (;;) {
      bool ends = false;
      if (few) {
        if (list(low, whole_prefix ? ~0ull : high)) {
          int place;
          uint64_t before, own;
          place_in_list(weight, place, before, own);
          if (whole_prefix) {
            lists_prefix_ = keep_of_list(filters, low <= floor, place, before, own, prefix);
            if (lists_prefix_) return prefix;
          } else {
            prefix = end_in_list(by_mass, target, place, before, own);
            ends = true;
          }
        }
        few = whole_prefix = false;
      }
      if (!ends) {
        const uint64_t first = uint64_t(order_key(weight.max)) << 32 | 0xffffffffu;
        if (first > low) high = min(high, first);  // bins above the maximum would be empty
        const int shift = max(56 - __clzll(int64_t(high - low)), 0);
        uint64_t above[2] = {0, 0}, inside = 0;
        count_between(weight, low, high, shift, above);
        const Found* found = scan(by_mass, target, above, inside);
        if ((by_mass ? above[1] : above[0]) >= target) {  // the boundary lies above
          low = high + 1;
          high = top;
          continue;
        }
        if (!found && low > floor) {
          high = low - 1;
          top = high;
          low = floor;
          continue;
        }
        if (!found) {
          prefix = {floor, above[1] + inside};
        } else {
          low += uint64_t(found->bin) << shift;
          high = min(high, low + ((uint64_t(1) << shift) - 1));
          if (found->count > 1 && (by_mass || found->before_count + found->count > target)) {
            few = found->count <= kFew;
            continue;
          }
          prefix = {low, found->before_mass + found->mass};
        }
      }
      if (by_mass || !filters.by_mass()) return prefix;
      // top_p cuts what top_k has kept.
      __syncthreads();  // every thread has compared with the old target
      by_mass = true;
      target = needed_mass(filters.top_p, filters.joint ? uint64_t(whole) : prefix.mass);
      if (target >= prefix.mass) return prefix;
      low = floor = prefix.rank;
      high = ~0ull;
      top = high;
    }
  }

  /// Lists the elements with ranks in [low, high] in every block; false: there are too many.
  __device__ bool list(uint64_t low, uint64_t high) {
    if (threadIdx.x == 0) smem_.listed = 0;
    __syncthreads();
    const float least = value_of_order_key<float>(key_of_rank(low));
    for_each([&](const float(&x)[kVec], int first) {
      if (!reaches(x, least)) return;
      for_each_hit(
          x, first, [&](float value) { return value >= least; },
          [&](float value, uint32_t index) {
            const uint64_t rank = order_rank(order_key(value), index);
            if (rank < low || rank > high) return;
            const uint32_t at = atomicAdd(&smem_.listed, 1u);
            if (at < kListed) {
#pragma unroll 1
              for (int r = 0; r < kCluster; ++r) *Group::of(&smem_.list[group.rank()][at], r) = rank;
            }
          });
    });
    __syncthreads();
    if (threadIdx.x < kCluster) *Group::of(&smem_.lengths[group.rank()], int(threadIdx.x)) = smem_.listed;
    Group::sync();
    length_ = 0;
    own_rank_ = 0;
    bool fits = true;
    for (int r = 0; r < kCluster; ++r) {
      const int length = int(smem_.lengths[r]);
      if (int(threadIdx.x) >= length_ && int(threadIdx.x) - length_ < min(length, kListed)) {
        own_rank_ = smem_.list[r][int(threadIdx.x) - length_];
      }
      fits &= length <= kListed;
      length_ += length;
    }
    return fits && length_ <= kMost;
  }
  /// Whether the prefix that keep() returned is that of the list.
  __device__ bool lists_prefix() const { return lists_prefix_; }
  /// The entries of the list: thread i has the i-th, in no order.
  __device__ int list_length() const { return length_; }
  __device__ uint64_t own_rank() const { return own_rank_; }

  /// Entries of the list before this thread's own in the order, and their mass. Own mass is left in `own`.
  __device__ void place_in_list(const Weight& weight, int& place, uint64_t& before, uint64_t& own) {
    const int t = int(threadIdx.x);
    place = 0, before = own = 0;
    if (t < length_) {
      own = mass_of(weight(value_of_order_key<float>(key_of_rank(own_rank_))));
      smem_.rank[t] = own_rank_;
      smem_.mass[t] = own;
    }
    __syncthreads();
    if (t < length_) {
#pragma unroll 4
      for (int i = 0; i < length_; ++i) {
        const bool first = smem_.rank[i] > own_rank_;
        place += first;
        before += first ? smem_.mass[i] : 0;
      }
    }
  }

 private:
  static constexpr int kShort = 96, kFew = 64;  // elements of a list: what is looked up there, every thread reads all of it
  static constexpr int kPerOctave = 8;
  static constexpr float kExact = -6;  // exponents from which every element is counted

  Smem& smem_;
  int turn_ = 0, length_ = 0;
  uint64_t own_rank_ = 0, high_ = 0;
  bool lists_prefix_ = false;

  /// Empties the histogram that was not used last: all blocks have read it, since they have met at a barrier after that.
  __device__ void begin_histogram(bool masses) {
    turn_ ^= 1;
    const int t = int(threadIdx.x);
    if (t < kBins) {
      smem_.count[turn_][t] = 0;
      if (masses) smem_.mass_low[turn_][t] = smem_.mass_high[turn_][t] = 0;
    }
    if (t == 0) smem_.found[turn_].bin = -1;
    __syncthreads();
  }

  /// Where the elements of a vector are all equal, and perhaps those of the warp, they are counted at once: a row of ties would otherwise
  /// be a queue at one bin. True: they have been, by add(elements). All lanes call it.
  template <class Add>
  __device__ static bool add_ties(const float (&x)[kVec], bool counts, const Add& add) {
    bool equal = counts;
#pragma unroll
    for (int j = 1; j < kVec; ++j) equal &= x[j] == x[0];
    if (__all_sync(0xffffffffu, equal)) {
      if (__all_sync(0xffffffffu, x[0] == __shfl_sync(0xffffffffu, x[0], 0))) {
        if (threadIdx.x % kWarpSize == 0) add(uint32_t(kVec * kWarpSize));
        return true;
      }
    }
    if (equal) add(uint32_t(kVec));
    return equal;
  }

  /// Bins of the row's elements by exponent, from a sample, and two ranks that the boundary is likely to lie between: the return value and
  /// high_. length_ is how many elements are likely to lie above the lower one.
  __device__ uint64_t guess(const Weight& weight, const RowFilters& filters, uint64_t floor, bool with_mass) {
    begin_histogram(false);
    const float least = value_of_order_key<float>(key_of_rank(floor)), exact = max(weight.value_at(kExact), least);
    const float counted = filters.joint ? -kInfinity : least;  // from where on elements belong to the mass
    const bool sampled = threadIdx.x % 2 == 0;                 // one element in 8
    MassSum mass;
    auto add = [&](float x, uint32_t n) {
      const float bin = fminf(fmaxf(weight.exponent(x) * -float(kPerOctave), 0.0f), float(kBins - 1));
      if (bin < kBins - 1) atomicAdd(&smem_.count[turn_][int(bin)], n);  // nothing is read from the last one
    };
    for_each([&](const float(&x)[kVec], int first) {
      if (with_mass) {
        float f[kVec];
#pragma unroll
        for (int j = 0; j < kVec; ++j) f[j] = weight(x[j] >= counted ? x[j] : -kInfinity);
        mass.add(f);
      }
      if (sampled && x[0] >= least && !(x[0] >= exact)) add(x[0], 8);
      const bool any = reaches(x, exact);
      if (__any_sync(0xffffffffu, any) && !add_ties(x, x[0] >= exact, [&](uint32_t n) { add(x[0], n); }) && any)
        for_each_hit(x, first, [&](float value) { return value >= exact; }, [&](float value, uint32_t) { add(value, 1); });
    });
    const uint64_t whole = group.sum(mass.total());
    *static_cast<volatile uint64_t*>(&smem_.whole) = whole;

    const int t = int(threadIdx.x), lane = t % kWarpSize, warp = t / kWarpSize;
    float count = 0, weighs = 0;  // of bin t, in all blocks; what they weigh, as a bin's middle
    if (t < kBins) {
      uint32_t n = 0;
#pragma unroll 4
      for (int r = 0; r < kCluster; ++r) n += *Group::of(&smem_.count[turn_][t], r);
      count = float(n);
      weighs = count * 0.957f * portable_exp2(float(-t) / kPerOctave);
    }
    // From the first bin on: elements. From the last bin back: mass.
    const float own = weighs;
#pragma unroll
    for (int by = 1; by < kWarpSize; by *= 2) {
      const float c = __shfl_up_sync(0xffffffffu, count, by), w = __shfl_down_sync(0xffffffffu, weighs, by);
      if (lane >= by) count += c;
      if (lane + by < kWarpSize) weighs += w;
    }
    if (t < kBins && lane == kWarpSize - 1) smem_.sums[0][warp] = count;
    if (t < kBins && lane == 0) smem_.sums[1][warp] = weighs;
    if (t == 0) smem_.guess[0] = kBins - 1, smem_.guess[1] = -1;
    __syncthreads();
    if (t < kBins) {
      for (int w = 0; w < warp; ++w) count += smem_.sums[0][w];
      for (int w = warp + 1; w < kBins / kWarpSize; ++w) weighs += smem_.sums[1][w];
    }
    const float below = weighs - own;  // mass of the bins after this one
    bool enough, short_of;             // with this bin: surely enough, surely not enough
    if (filters.by_count()) {
      const float wanted = float(filters.top_k), error = t < -kExact * kPerOctave ? 0.0f : 4 * sqrtf(8 * count) + 8;
      enough = count - error >= wanted;
      short_of = count + error < wanted;
    } else {
      const float allowed = weight_of_mass(whole) * (1 - filters.top_p);
      const float error = 0.03f * below + 4 * sqrtf(8 * below * portable_exp2(float(-t - 1) / kPerOctave));
      enough = below + error <= allowed;
      short_of = below - error > allowed;
    }
    if (t < kBins && t + 1 < kBins && enough) atomicMin(&smem_.guess[0], t);
    if (t < kBins && short_of) atomicMax(&smem_.guess[1], t);
    __syncthreads();
    const int last = smem_.guess[0], first = min(smem_.guess[1], last - 1);
    if (t == last) smem_.sums[0][0] = count;  // every other thread has read them
    __syncthreads();
    length_ = int(min(smem_.sums[0][0], 1e6f));
    auto edge = [&](int bin) { return uint64_t(order_key(weight.value_at(float(-1 - bin) / kPerOctave))) << 32; };
    const uint64_t low = last == kBins - 1 ? floor : max(edge(last), floor);
    high_ = first < 0 ? ~0ull : edge(first) - 1;
    if (high_ <= low) high_ = ~0ull;
    return low;
  }

  /// Elements by rank in bins of 2^shift from `low` up to `high`, with their masses; number and mass of those above, in every thread.
  __device__ void count_between(const Weight& weight, uint64_t low, uint64_t high, int shift, uint64_t (&above)[2]) {
    begin_histogram(true);
    const float least = value_of_order_key<float>(key_of_rank(low));
    auto add = [&](uint64_t rank, uint32_t elements, uint64_t mass) {
      const int bin = int((rank - low) >> shift);
      atomicAdd(&smem_.count[turn_][bin], elements);
      const uint32_t part = uint32_t(mass), before = atomicAdd(&smem_.mass_low[turn_][bin], part);
      const uint32_t carried = uint32_t(mass >> 32) + (before + part < before ? 1u : 0u);
      if (carried) atomicAdd(&smem_.mass_high[turn_][bin], carried);
    };
    for_each([&](const float(&x)[kVec], int first) {
      const bool any = reaches(x, least);
      if (!__any_sync(0xffffffffu, any)) return;
      const uint32_t key = order_key(x[0]);
      // Do all that equal x[0] lie in one bin?
      const bool ties = x[0] >= least && shift >= 32 && uint32_t(low) == 0 && key <= key_of_rank(high) - (~uint32_t(high) ? 1 : 0);
      if (add_ties(x, ties, [&](uint32_t n) { add(order_rank(key, uint32_t(first)), n, n * mass_of(weight(x[0]))); }) || !any) return;
      for_each_hit(
          x, first, [&](float value) { return value >= least; },
          [&](float value, uint32_t index) {
            const uint64_t rank = order_rank(order_key(value), index);
            if (rank < low) return;
            const uint64_t mass = mass_of(weight(value));
            if (rank > high) {
              above[0] += 1, above[1] += mass;
            } else {
              add(rank, 1, mass);
            }
          });
    });
    const typename Group::Pair all = group.sum(above[0], above[1]);
    above[0] = all.first, above[1] = all.second;
  }

  /// The bin that `target` is reached in, from the highest down, with `above` before all of them; null: none. The
  /// mass of all bins is `inside`.
  __device__ const Found* scan(bool by_mass, uint64_t target, const uint64_t (&above)[2], uint64_t& inside) {
    const int t = int(threadIdx.x), lane = t % kWarpSize, warp = t / kWarpSize, bin = kBins - 1 - t;
    uint64_t count = 0, mass = 0;
    if (t < kBins) {
#pragma unroll 2
      for (int r = 0; r < kCluster; ++r) {
        count += *Group::of(&smem_.count[turn_][bin], r);
        mass += *Group::of(&smem_.mass_low[turn_][bin], r);
        mass += uint64_t(*Group::of(&smem_.mass_high[turn_][bin], r)) << 32;
      }
    }
    const uint64_t own_count = count, own_mass = mass;
#pragma unroll
    for (int by = 1; by < kWarpSize; by *= 2) {
      const uint64_t c = __shfl_up_sync(0xffffffffu, count, by), m = __shfl_up_sync(0xffffffffu, mass, by);
      if (lane >= by) count += c, mass += m;
    }
    __syncthreads();  // the sums of an earlier scan have been read
    if (t < kBins && lane == kWarpSize - 1) smem_.scan[1][warp] = count, smem_.scan[0][warp] = mass;
    __syncthreads();
    count += above[0], mass += above[1];
    for (int w = 0; w < kBins / kWarpSize; ++w) {
      if (w < warp) count += smem_.scan[1][w], mass += smem_.scan[0][w];
      inside += smem_.scan[0][w];
    }
    const uint64_t reached = by_mass ? mass : count, own = by_mass ? own_mass : own_count;
    if (t < kBins && reached >= target && reached - own < target)
      smem_.found[turn_] = {count - own_count, mass - own_mass, own_count, own_mass, bin};
    __syncthreads();
    return smem_.found[turn_].bin < 0 ? nullptr : &smem_.found[turn_];
  }

  /// The list is that of the bin found last: its first element that makes the count or the mass reach the target.
  __device__ RowPrefix end_in_list(bool by_mass, uint64_t target, int place, uint64_t before, uint64_t own) {
    before += smem_.found[turn_].before_mass;
    const uint64_t amount = by_mass ? before : smem_.found[turn_].before_count + uint64_t(place);
    if (int(threadIdx.x) < length_ && amount < target && amount + (by_mass ? own : 1) >= target) smem_.prefix = {own_rank_, before + own};
    __syncthreads();
    return smem_.prefix;
  }

  /// Applies the filters to a list of all elements from some rank up, `complete` if that is all there is. False: the prefix may go on
  /// below.
  __device__ bool keep_of_list(const RowFilters& filters, bool complete, int place, uint64_t before, uint64_t own, RowPrefix& prefix) {
    const int t = int(threadIdx.x), k = filters.by_count() ? min(filters.top_k, length_) : length_;
    const bool listed = t < length_;
    if (listed && place == k - 1) smem_.mass_of_k = before + own;
    if (listed && place == length_ - 1) smem_.mass_of_list = before + own;
    __syncthreads();
    const bool of_row = filters.joint || !filters.by_count();
    const uint64_t needed = filters.by_mass() ? needed_mass(filters.top_p, of_row ? smem_.whole : smem_.mass_of_k) : ~0ull;
    const bool last = listed && place < k && before < needed && (place == k - 1 || before + own >= needed);
    if (last) smem_.prefix = {own_rank_, before + own};
    const bool ends = (filters.by_count() && length_ >= filters.top_k) || (filters.by_mass() && of_row && smem_.mass_of_list >= needed);
    __syncthreads();
    prefix = smem_.prefix;
    return complete || ends;
  }
};

}  // namespace flashinfer::gpu
