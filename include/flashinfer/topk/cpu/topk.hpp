// Host only. Top-k selection on the CPU: one pass over the row, which keeps what beats the last of the k best so far. Most vectors have
// nothing that does, and cost a load and a maximum.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include <flashinfer/core/number.hpp>
#include <flashinfer/cpu/dispatch_dtype.hpp>
#include <flashinfer/cpu/parallel_for.hpp>
#include <flashinfer/cpu/vec.hpp>
#include <flashinfer/topk/topk_params.hpp>

namespace flashinfer::cpu {

namespace detail {

/// The best ranks of a row seen so far.
struct TopkBest {
  std::vector<uint64_t> ranks;
  size_t wanted, room;
  float limit = -kInfinity;  // once there are enough, elements that come later must be above it: among equals the earlier one ranks higher
  bool full = false;

  explicit TopkBest(int64_t wanted) : wanted(size_t(wanted)), room(std::max<size_t>(4 * size_t(wanted), 512)) { ranks.reserve(room + 64); }

  /// Drops all but the wanted.
  void cut() {
    if (ranks.size() < wanted || wanted == 0) return;
    if (ranks.size() > wanted) {
      std::nth_element(ranks.begin(), ranks.begin() + std::ptrdiff_t(wanted) - 1, ranks.end(), std::greater<>());
      ranks.resize(wanted);
    }
    full = true;
    limit = value_of_order_key<float>(key_of_rank(*std::min_element(ranks.begin(), ranks.end())));
  }
};

/// Offers elements [begin, end) of a row, from the end that ties prefer.
template <class Isa, class T>
FLASHINFER_INLINE inline void offer_row(const T* x, int64_t begin, int64_t end, TieBreak tie_break, TopkBest& best) {
  using F = typename Isa::F;
  constexpr int64_t kLanes = Isa::kLanes, kBlock = 4 * kLanes;
  const bool small = tie_break == TieBreak::small;
  const auto offer_vector = [&](int64_t first, auto... count) FLASHINFER_INLINE {
    const F values = Isa::load(x + first, count...), limit = Isa::set(best.limit);
    uint32_t some = Isa::bits(Isa::less(limit, values));
    if (!best.full) some = Isa::bits(Isa::less(values, Isa::set(kInfinity))) | some;  // all but NaN
    if constexpr (sizeof...(count) > 0) some &= Isa::bits(Isa::first(count...));
    while (some) {
      const int lane = small ? __builtin_ctz(some) : 31 - __builtin_clz(some);
      some ^= 1u << lane;
      best.ranks.push_back(topk_rank(to_float(x[first + lane]), int32_t(first + lane), tie_break));
    }
  };
  const int64_t blocks = ceil_div(end - begin, kBlock);
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = begin + (small ? b : blocks - 1 - b) * kBlock, last = std::min(first + kBlock, end);
    if (best.full && last - first == kBlock) {
      F most = Isa::set(-kInfinity);  // passes over NaN
      for (int i = 0; i < 4; ++i) most = Isa::max(Isa::load(x + first + i * kLanes), most);
      if (!(Isa::max_of(most) > best.limit)) continue;
    }
    for (int i = 0; i < 4; ++i) {
      const int64_t at = first + (small ? i : 3 - i) * kLanes;
      if (at + kLanes <= last)
        offer_vector(at);
      else if (at < last)
        offer_vector(at, int(last - at));
    }
    if (best.ranks.size() >= best.room) best.cut();
  }
}

/// Rows of fewer numbers than wanted end in their NaN.
template <class T>
inline void fill_with_nan(const T* x, int64_t length, TieBreak tie_break, TopkBest& best) {
  for (int64_t i = 0; i < length && best.ranks.size() < best.wanted; ++i) {
    const int64_t index = tie_break == TieBreak::small ? i : length - 1 - i;
    const float value = to_float(x[index]);
    if (value != value) best.ranks.push_back(topk_rank(value, int32_t(index), tie_break));
  }
}

template <class T>
inline void write_row(const TopkParams& p, int64_t row, const T* x, TopkBest& best) {
  std::vector<uint64_t>& ranks = best.ranks;
  auto index = [&](uint64_t rank) { return topk_index(rank, p.tie_break); };
  if (p.sorted)
    std::sort(ranks.begin(), ranks.end(), std::greater<>());
  else
    std::sort(ranks.begin(), ranks.end(), [&](uint64_t a, uint64_t b) { return index(a) < index(b); });
  for (size_t j = 0; j < ranks.size(); ++j) {
    write_index(p, row, int32_t(j), index(ranks[j]));
    if (p.values) static_cast<T*>(p.values)[row * p.k + int64_t(j)] = x[index(ranks[j])];
  }
  for (size_t j = ranks.size(); j < size_t(p.k); ++j) write_padding(p, row, int32_t(j), from_float<T>(p.padding));
}

}  // namespace detail

inline void topk(const TopkParams& p, DType input) {
  // Fewer rows than threads: each row in pieces, whose best are merged.
  constexpr int64_t kLeast = 16384;  // elements of a piece: some microseconds
  const int64_t pieces = max(min<int64_t>(num_threads() / p.num_rows, p.width / kLeast), int64_t(1));
  dispatch_dtype<DType::f32, DType::f16, DType::bf16>(input, [&]<class T>(T) {
    auto row_of = [&](int64_t row, RowWindow& window) {
      window = window_of(p, row);
      return static_cast<const T*>(p.input) + row * p.row_stride + window.start;
    };
    auto best_of = [&](int64_t row, int64_t piece) {
      RowWindow window;
      const T* x = row_of(row, window);
      const int64_t size = round_up<int64_t>(ceil_div<int64_t>(window.length, pieces), 64);
      const int64_t begin = std::min<int64_t>(piece * size, window.length), end = std::min<int64_t>(begin + size, window.length);
      detail::TopkBest best(std::min<int64_t>(p.k, window.length));
      dispatch_isa([&]<class Isa>(Isa) FLASHINFER_INLINE { detail::offer_row<Isa>(x, begin, end, p.tie_break, best); });
      best.cut();
      return best;
    };
    auto write = [&](int64_t row, detail::TopkBest& best) {
      RowWindow window;
      const T* x = row_of(row, window);
      detail::fill_with_nan(x, window.length, p.tie_break, best);
      detail::write_row(p, row, x, best);
    };
    if (pieces == 1) {
      parallel_for(p.num_rows, kLeast / std::max(p.width, 1) + 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          detail::TopkBest best = best_of(row, 0);
          write(row, best);
        }
      });
      return;
    }
    std::vector<detail::TopkBest> parts(size_t(p.num_rows * pieces), detail::TopkBest(0));
    parallel_for(p.num_rows * pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) parts[size_t(i)] = best_of(i / pieces, i % pieces);
    });
    parallel_for(p.num_rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        detail::TopkBest& best = parts[size_t(row * pieces)];
        for (int64_t piece = 1; piece < pieces; ++piece) {
          const std::vector<uint64_t>& more = parts[size_t(row * pieces + piece)].ranks;
          best.ranks.insert(best.ranks.end(), more.begin(), more.end());
        }
        best.cut();
        write(row, best);
      }
    });
  });
}

}  // namespace flashinfer::cpu
